//! What the host sees: `status.json`, its copy in the export directory, and the last
//! line on the console. Touches the file system.
//!
//! [`schema`] is what is told; [`reporter`] keeps and tells it, for supervision; [`told`] is
//! how others find it.
#![forbid(unsafe_code)]

pub mod denials;
pub mod export;
mod exported;
pub mod for_agents;
mod last_words;
pub mod metrics;
pub mod notify;
pub mod report;
pub mod reporter;
pub mod schema;
pub mod teller;
pub mod timeline;
pub mod told;

pub use last_words::record_internal_error;
pub use reporter::{Reporter, While};
pub use schema::{
    Ca, CaSource, Companion, Config, FILE, Granted, LastExit, Outcome, Port, Revocation, Stage,
    State, Status, Validity, Word,
};
