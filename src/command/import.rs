//! `import`: a manifest on standard output, from the allowlists somebody has.

use super::check::read;
use super::print_as_it_is;
use crate::cli::ImportOptions;
use crate::exit::{ExitCode, StartError};
use crate::import::{ImportError, Source, import as convert};

/// Prints the manifest that allows what the files allow, and says how much of them it is.
pub fn import(options: &ImportOptions) -> Result<(), StartError> {
    let files = options.files.iter().map(|file| read(file));
    let files: Vec<(Vec<u8>, String)> = files.collect::<Result<_, _>>()?;
    let sources: Vec<Source> = files
        .iter()
        .map(|(bytes, name)| Source { name, bytes })
        .collect();
    let imported = convert(&sources, options.from, &options.slug).map_err(|error| {
        let code = match error {
            ImportError::Unknown(_) => ExitCode::ManifestInvalid,
            ImportError::Slug(_) => ExitCode::Usage,
            ImportError::Defect(_) => ExitCode::Internal,
        };
        StartError::new(code, error)
    })?;
    print_as_it_is(&imported.manifest)?;
    let left = match imported.left {
        0 => String::new(),
        left => format!("; {left} not carried over or not whole, see the comments"),
    };
    eprintln!("sidecar-init: {} host(s) allowed{left}", imported.allowed);
    Ok(())
}
