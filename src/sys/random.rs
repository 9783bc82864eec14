//! Random bytes of the kernel's. Touches the kernel: getrandom, a timer.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;

/// Fills `bytes` from a generator that may not be seeded yet: for what is no secret, and may
/// wait for nothing. Kernels before 5.6 refuse that, and leave the bytes as they are.
pub fn fill_insecurely(bytes: &mut [u8]) {
    let _ = getrandom(bytes, libc::GRND_INSECURE);
}

/// Random bytes from a seeded generator; waits so long for the seed, then `EAGAIN`. Only for a
/// process of its own: where it has to wait, SIGALRM is its own to the end.
pub fn fill<const N: usize>(deadline: Duration) -> Result<[u8; N], Errno> {
    let end = Instant::now() + deadline;
    let mut bytes = [0_u8; N];
    // The kernel makes entropy of its own timing only while somebody waits for it without
    // looking elsewhere (random.c, `try_to_generate_entropy`).
    let mut flags = libc::GRND_NONBLOCK;
    loop {
        match getrandom(&mut bytes, flags) {
            // Up to 256 bytes are never returned in part once the generator is seeded
            // (getrandom(2)).
            Ok(got) if got == N => {
                if flags == 0 {
                    interrupt_every(0);
                }
                return Ok(bytes);
            }
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) if Instant::now() >= end => {
                return Err(Errno::EAGAIN);
            }
            // Only a refusal comes back at once.
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) if flags == 0 => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {
                flags = 0;
                interrupt_every(1);
            }
            Err(errno) => return Err(errno),
        }
    }
}

#[allow(unsafe_code)]
fn getrandom(bytes: &mut [u8], flags: libc::c_uint) -> Result<usize, Errno> {
    // SAFETY: the buffer is ours and as long as said.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), flags) };
    Errno::result(got).map(|got| usize::try_from(got).unwrap_or(0))
}

/// Ends what waits in this process every so many seconds, with `EINTR`; 0 for no more.
#[allow(unsafe_code)]
fn interrupt_every(seconds: u8) {
    extern "C" fn nothing(_: libc::c_int) {}
    let period = libc::timeval {
        tv_sec: seconds.into(),
        tv_usec: 0,
    };
    let timer = libc::itimerval {
        it_interval: period,
        it_value: period,
    };
    // SAFETY: all zeroes are a valid sigaction, which restarts nothing.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as *const () as usize;
    // SAFETY: a handler that does nothing, and structures of ours that the kernel copies.
    unsafe {
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut());
    }
}
