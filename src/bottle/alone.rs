//! Files that are mounted by themselves, as a container engine does with `-v FILE:FILE` and
//! Kubernetes with `subPath`: the mount is of the file, not of its name, so that another which
//! is put in its place never arrives. Touches the file system.

use std::path::Path;

use crate::plain;
use crate::sys::files::{Standing, standing};

/// That a file is such a one, in a sentence.
#[must_use]
pub fn warning(file: &Path) -> Option<String> {
    let shown = plain::line_of(file.as_os_str().as_encoded_bytes());
    about(standing(file)?).map(|about| format!("{shown} is mounted by itself{about}"))
}

fn about(file: Standing) -> Option<&'static str> {
    match file {
        Standing { links: 0, .. } => Some(
            ", and where it comes from it was replaced or removed: what is read here is the old file, and \
             stays so\nhint: mount its directory, and start anew",
        ),
        Standing { is_mount: true, .. } => Some(
            ": a file that replaces it never arrives here, only what is written into it does\nhint: mount its \
             directory",
        ),
        Standing { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_directory_has_nothing_to_be_said_of_it() {
        let says = |is_mount, links| about(Standing { is_mount, links });
        assert_eq!(says(false, 1), None);
        assert!(says(true, 1).unwrap().contains("never arrives"));
        // The kernel may not say what is mounted; nothing else is there without a name.
        for is_mount in [true, false] {
            assert!(says(is_mount, 0).unwrap().contains("the old file"));
        }
        let own = std::env::current_exe().unwrap();
        assert_eq!(warning(&own), None);
        assert_eq!(warning(Path::new("/nonexistent")), None);
        assert!(warning(Path::new("/proc")).is_some(), "a mount of its own");
    }
}
