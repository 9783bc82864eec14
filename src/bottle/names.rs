//! The files by which the daemon resolves names. It is granted each as it was when it started
//! (Landlock knows files, not their names), and who changes one mostly puts another in its
//! place: from then on the daemon can read neither. Touches the file system.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What Go's resolver reads again when it changes (net/conf.go, net/hosts.go).
pub const FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"];

/// Which file stands at each of [`FILES`], by device and number; none where there is none. A
/// file that is granted keeps its number for as long as the rules live.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Names([Option<(u64, u64)>; FILES.len()]);

impl Names {
    /// As they are now.
    #[must_use]
    pub fn now() -> Self {
        Self(FILES.map(|file| identity(Path::new(file))))
    }

    /// As they are now, without those that lie below `granted`: a directory is granted with
    /// whatever is put there later.
    #[must_use]
    pub fn outside(granted: &Path) -> Self {
        Self(outside(FILES.map(Path::new), granted))
    }

    /// One that is another by now than when these were granted; what is gone cannot be.
    #[must_use]
    pub fn replaced(&self, now: &Self) -> Option<&'static str> {
        let both = self.0.iter().zip(now.0);
        let mut changed = both.zip(FILES);
        changed.find_map(|((before, now), file)| (now.is_some() && *before != now).then_some(file))
    }

    /// For another process.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let numbers = self.0.into_iter().map(Option::unwrap_or_default);
        numbers
            .flat_map(|(device, number)| [device, number])
            .flat_map(u64::to_le_bytes)
            .collect()
    }

    /// What another process found.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut names = Self::default();
        let (numbers, _) = bytes.as_chunks();
        let (pairs, _) = numbers.as_chunks();
        for (name, [device, number]) in names.0.iter_mut().zip(pairs) {
            let found = (u64::from_le_bytes(*device), u64::from_le_bytes(*number));
            *name = (found != (0, 0)).then_some(found);
        }
        names
    }
}

fn identity(file: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn outside<const N: usize>(files: [&Path; N], granted: &Path) -> [Option<(u64, u64)>; N] {
    let granted = fs::canonicalize(granted).ok();
    files.map(|file| {
        let real = fs::canonicalize(file).ok()?;
        let is_granted = granted.as_ref().is_some_and(|it| real.starts_with(it));
        identity(&real).filter(|_| !is_granted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_another_file_now_or_was_not_there_is_replaced_and_what_is_gone_is_not() {
        let names = |numbers: [u64; 3]| {
            let found = numbers.map(|number| (number > 0).then_some((7, number)));
            let names = Names(found);
            assert_eq!(Names::from_bytes(&names.to_bytes()), names);
            names
        };
        for (granted, now, replaced) in [
            ([1, 2, 3], [1, 2, 3], None),
            ([1, 2, 3], [4, 2, 3], Some("/etc/resolv.conf")),
            ([1, 2, 3], [1, 4, 3], Some("/etc/hosts")),
            ([1, 2, 0], [1, 2, 4], Some("/etc/nsswitch.conf")),
            ([1, 2, 3], [0, 0, 0], None),
        ] {
            let found = names(granted).replaced(&names(now));
            assert_eq!(found, replaced, "{granted:?} {now:?}");
        }
    }

    #[test]
    fn what_is_put_below_a_directory_that_is_granted_needs_no_other_grant() {
        let own = format!("sidecar-names-{}", std::process::id());
        let directory = std::env::temp_dir().join(own);
        let at = |name: &str| directory.join(name);
        fs::create_dir_all(at("run")).unwrap();
        for file in ["run/resolv.conf", "hosts"] {
            fs::write(at(file), "").unwrap();
        }
        symlink("run/resolv.conf", at("resolv.conf")).unwrap();
        symlink("run/nothing", at("nsswitch.conf")).unwrap();
        let files = ["resolv.conf", "hosts", "nsswitch.conf"].map(at);
        let found = outside(
            files.each_ref().map(std::path::PathBuf::as_path),
            &at("run"),
        );
        assert_eq!(found, [None, identity(&at("hosts")), None]);
        assert!(found[1].is_some());
        fs::remove_dir_all(&directory).unwrap();
    }
}
