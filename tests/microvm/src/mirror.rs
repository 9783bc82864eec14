//! The manifest and the `trust/` beside it, in a directory that a machine mounts: as they are
//! wherever they are edited, whatever they are called there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use microvm::Error;

/// A copy that follows what it is of.
#[derive(Debug)]
pub struct Mirror {
    manifest: PathBuf,
    shared: PathBuf,
    shown: BTreeMap<PathBuf, Vec<u8>>,
}

impl Mirror {
    /// Copies the manifest as `manifest.yaml`, and the roots beside it.
    pub fn of(manifest: &Path, shared: &Path) -> Result<Self, Error> {
        let mut mirror = Self {
            manifest: manifest.to_owned(),
            shared: shared.to_owned(),
            shown: BTreeMap::new(),
        };
        let found = mirror.look().map_err(|source| Error::Io {
            attempt: format!("read {}", manifest.display()),
            source,
        })?;
        mirror.show(found)?;
        Ok(mirror)
    }

    /// Copies what has changed; whether anything has. What cannot be read is being replaced,
    /// and stays as it was.
    pub fn refresh(&mut self) -> Result<bool, Error> {
        match self.look() {
            Ok(found) if found != self.shown => self.show(found).map(|()| true),
            Ok(_) | Err(_) => Ok(false),
        }
    }

    fn look(&self) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
        let mut found = BTreeMap::from([("manifest.yaml".into(), fs::read(&self.manifest)?)]);
        let trust = match fs::read_dir(self.manifest.with_file_name("trust")) {
            Ok(trust) => trust,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(error),
        };
        for entry in trust {
            let entry = entry?;
            if entry.path().is_file() {
                let name = Path::new("trust").join(entry.file_name());
                found.insert(name, fs::read(entry.path())?);
            }
        }
        Ok(found)
    }

    fn show(&mut self, found: BTreeMap<PathBuf, Vec<u8>>) -> Result<(), Error> {
        let failed = |source| Error::Io {
            attempt: format!("copy {}", self.manifest.display()),
            source,
        };
        for name in self.shown.keys().filter(|name| !found.contains_key(*name)) {
            fs::remove_file(self.shared.join(name)).map_err(failed)?;
        }
        // The roots before the manifest, which may need them; each whole or not at all.
        for (name, bytes) in found.iter().rev() {
            if self.shown.get(name) != Some(bytes) {
                let path = self.shared.join(name);
                if let Some(directory) = path.parent() {
                    fs::create_dir_all(directory).map_err(failed)?;
                }
                let new = self.shared.join(".new");
                fs::write(&new, bytes).map_err(failed)?;
                fs::rename(&new, path).map_err(failed)?;
            }
        }
        self.shown = found;
        Ok(())
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails by panicking"
)]
mod tests {
    use microvm::ScratchDir;

    use super::*;

    #[test]
    fn follows_the_manifest_and_the_roots_beside_it() {
        let (mine, shared) = (ScratchDir::new().unwrap(), ScratchDir::new().unwrap());
        let manifest = mine.join("any-name.yaml");
        assert!(Mirror::of(&manifest, shared.path()).is_err());
        fs::write(&manifest, "one").unwrap();
        let mut mirror = Mirror::of(&manifest, shared.path()).unwrap();
        let read = |name: &str| fs::read_to_string(shared.join(name)).ok();
        assert_eq!(read("manifest.yaml").as_deref(), Some("one"));
        assert!(!mirror.refresh().unwrap());
        fs::create_dir(mine.join("trust")).unwrap();
        fs::write(mine.join("trust/a.pem"), "root").unwrap();
        fs::write(&manifest, "two").unwrap();
        assert!(mirror.refresh().unwrap() && !mirror.refresh().unwrap());
        assert_eq!(read("manifest.yaml").as_deref(), Some("two"));
        assert_eq!(read("trust/a.pem").as_deref(), Some("root"));
        // An editor's moment without a file is no end of it; a root that is taken away is.
        fs::remove_file(&manifest).unwrap();
        assert!(!mirror.refresh().unwrap());
        assert_eq!(read("manifest.yaml").as_deref(), Some("two"));
        fs::write(&manifest, "two").unwrap();
        fs::remove_file(mine.join("trust/a.pem")).unwrap();
        assert!(mirror.refresh().unwrap());
        assert_eq!(read("trust/a.pem"), None);
        assert_eq!(fs::read_dir(shared.path()).unwrap().count(), 2);
    }
}
