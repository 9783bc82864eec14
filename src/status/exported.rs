//! What the files of the export are called. Touches nothing.

/// The CA certificate alone.
pub const CA: &str = "pipelock-ca.pem";
/// The public roots, the manifest's extra ones, and the CA: an intercepted host shows a
/// certificate of the CA, a passthrough host one of the others.
pub const BUNDLE: &str = "ca-bundle.pem";
/// The variables.
pub const ENVIRONMENT: &str = "client.env";
/// What an agent is told of all this; its first lines are the state's, and the reporter's.
pub const AGENTS: &str = "for-agents.md";
