//! A share whose host can stop answering: a FUSE file system that a thread of the test serves
//! from a directory, for as long as it wants to.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What its host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Host {
    Answers = 0,
    /// It takes no request: whoever waits can still be killed.
    Deaf = 1,
    /// It takes requests and does not answer: whoever waits cannot even be killed.
    Mute = 2,
    /// It is gone with its mount, and whoever waited is told so.
    Gone = 3,
}

/// A mounted share. To be dropped before the directory it is mounted on is removed.
pub struct Share {
    at: PathBuf,
    host: Arc<AtomicU8>,
    server: Option<JoinHandle<()>>,
}

impl Share {
    /// Mounts the files of `directory` on `at`; `None` where that cannot be done.
    pub fn mount(directory: &Path, at: &Path) -> Option<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let device = device.ok()?;
        let options = format!(
            "fd={},rootmode=40755,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("share"), at, Some("fuse"), flags, Some(&*options)).ok()?;
        let host = Arc::new(AtomicU8::new(Host::Answers as u8));
        let (shared, directory) = (Arc::clone(&host), directory.to_owned());
        Some(Self {
            at: at.to_owned(),
            host,
            server: Some(thread::spawn(move || serve(&device, &directory, &shared))),
        })
    }

    pub fn becomes(&self, host: Host) {
        self.host.store(host as u8, Ordering::SeqCst);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.becomes(Host::Gone);
        // The last descriptor goes with the thread, and everybody who waits is told.
        self.server.take().unwrap().join().unwrap();
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

/// The names of the directory that were asked for, by their numbers: the first is 2.
type Names = Vec<String>;

fn serve(mut device: &File, directory: &Path, host: &AtomicU8) {
    let mut names = Names::new();
    let mut waiting: VecDeque<Vec<u8>> = VecDeque::new();
    loop {
        let does = host.load(Ordering::SeqCst);
        if does == Host::Gone as u8 {
            return;
        }
        if does == Host::Answers as u8 {
            while let Some(request) = waiting.pop_front() {
                answer(device, directory, &mut names, &request);
            }
        }
        if does == Host::Deaf as u8 {
            thread::sleep(std::time::Duration::from_millis(5));
            continue;
        }
        let mut fds = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(5_u8)) != Ok(1) {
            continue;
        }
        // As long as the kernel asks for at least.
        let mut request = vec![0; 64 << 10];
        let Ok(count) = device.read(&mut request) else {
            continue;
        };
        request.truncate(count);
        waiting.push_back(request);
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

/// The numbers are linux/fuse.h's.
fn answer(mut device: &File, directory: &Path, names: &mut Names, request: &[u8]) {
    let operation = u32::from_ne_bytes(number(request, 4));
    let node = u64::from_ne_bytes(number(request, 16));
    let body = &request[40..];
    let path = match node {
        0 | 1 => directory.to_owned(),
        _ => directory.join(&names[usize::try_from(node).unwrap() - 2]),
    };
    let done: Result<Vec<u8>, i32> = match operation {
        // Lookup.
        1 => {
            let name = String::from_utf8(body[..body.len() - 1].to_vec()).unwrap();
            match fs::metadata(directory.join(&name)) {
                Err(_) => Err(2),
                Ok(found) => {
                    let at = names.iter().position(|it| *it == name);
                    let at = at.unwrap_or_else(|| {
                        names.push(name);
                        names.len() - 1
                    });
                    let node = at as u64 + 2;
                    // Nothing is kept: whoever looks asks.
                    Ok([&node.to_ne_bytes()[..], &[0; 32], &attributes(node, &found)].concat())
                }
            }
        }
        // Forget, interrupt, forget many: nobody waits for an answer.
        2 | 36 | 42 => return,
        // Attributes.
        3 => match fs::metadata(&path) {
            Ok(found) => Ok([&[0; 16][..], &attributes(node, &found)].concat()),
            Err(_) => Err(2),
        },
        // Open, open a directory: past the kernel's cache.
        14 | 27 => Ok([&[0; 8][..], &1_u32.to_ne_bytes(), &[0; 4]].concat()),
        // Read.
        15 => {
            let offset = u64::from_ne_bytes(number(body, 8));
            let size = u32::from_ne_bytes(number(body, 16));
            let mut bytes = vec![0; usize::try_from(size).unwrap()];
            let read = File::open(&path).and_then(|file| file.read_at(&mut bytes, offset));
            bytes.truncate(read.unwrap_or(0));
            Ok(bytes)
        }
        // Begin: version 7.31.
        26 => {
            let mut bytes = [7_u32, 31, 0, 0].map(u32::to_ne_bytes).concat();
            bytes.extend([0; 4]);
            bytes.extend(4096_u32.to_ne_bytes());
            bytes.resize(64, 0);
            Ok(bytes)
        }
        // Read a directory: an empty one.
        28 => Ok(Vec::new()),
        // Release, flush, release a directory.
        18 | 25 | 29 => Ok(Vec::new()),
        _ => Err(38),
    };
    let (error, bytes) = match done {
        Ok(bytes) => (0, bytes),
        Err(errno) => (-errno, Vec::new()),
    };
    let length = u32::try_from(16 + bytes.len()).unwrap();
    let head = [
        &length.to_ne_bytes()[..],
        &error.to_ne_bytes(),
        &request[8..16],
    ]
    .concat();
    // Whoever asked may be gone.
    let _ = device.write(&[head, bytes].concat());
}

fn attributes(node: u64, found: &fs::Metadata) -> Vec<u8> {
    let times = [found.atime(), found.mtime(), found.ctime()].map(i64::to_ne_bytes);
    let parts = [found.atime_nsec(), found.mtime_nsec(), found.ctime_nsec()];
    let parts = parts.map(|it| u32::try_from(it).unwrap().to_ne_bytes());
    let mut bytes = [node, found.len(), found.blocks()]
        .map(u64::to_ne_bytes)
        .concat();
    bytes.extend(times.concat());
    bytes.extend(parts.concat());
    bytes.extend(
        [found.mode(), 1, 0, 0, 0, 4096, 0]
            .map(u32::to_ne_bytes)
            .concat(),
    );
    bytes
}
