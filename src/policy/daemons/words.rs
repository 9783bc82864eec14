//! What is to run beside pipelock, for people and as data. Pure.

use serde::Serialize;

use super::{Daemon, Ready};
use crate::manifest::escaped;

/// A daemon as `check --json` shows it. What its arguments and its environment hold is not
/// shown: a secret may stand in them.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "docs/manifest.md describes the keys")]
pub struct Shown<'a> {
    pub name: &'a str,
    pub program: &'a str,
    pub after: &'a [String],
    pub user: u32,
    pub listen: &'a [u16],
    pub connect: &'a [u16],
    pub files: Vec<String>,
    pub ready: String,
    pub agent_proxy: Option<u16>,
    pub agent_ca: Option<String>,
    pub memory_mib: Option<u32>,
    pub essential: bool,
    pub proxy: bool,
}

/// The daemons as data, in the order in which they begin.
#[must_use]
pub fn shown(daemons: &[Daemon]) -> Vec<Shown<'_>> {
    let shown = daemons.iter().map(|daemon| Shown {
        name: &daemon.name,
        program: daemon.program(),
        after: &daemon.after,
        user: daemon.user,
        listen: &daemon.listen,
        connect: &daemon.connect,
        files: daemon.files(),
        ready: match &daemon.ready {
            Ready::Exec => "exec".to_owned(),
            Ready::Notify => "notify".to_owned(),
            Ready::Tcp(port) => format!("tcp {port}"),
            Ready::Http { port, path } => format!("http {port}{path}"),
        },
        agent_proxy: daemon.agent_proxy,
        agent_ca: daemon.agent_ca(),
        memory_mib: daemon.memory_mib,
        essential: daemon.essential,
        proxy: daemon.proxy,
    });
    shown.collect()
}

/// What is to run beside a pipelock at this port, in which order and with which rights: a line
/// and what belongs to it, each. Empty where nothing is.
#[must_use]
pub fn in_words(daemons: &[Daemon], pipelock: u16) -> String {
    let mut text = String::new();
    if !daemons.is_empty() {
        text.push_str("beside pipelock, in this order:\n");
    }
    for daemon in daemons {
        text.push_str(&daemon.in_words(pipelock));
    }
    text
}

impl Daemon {
    /// Its program.
    #[must_use]
    pub fn program(&self) -> &str {
        self.exec.first().map_or("", String::as_str)
    }

    fn files(&self) -> Vec<String> {
        let shown = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
        self.files.iter().map(shown).collect()
    }

    fn agent_ca(&self) -> Option<String> {
        let path = self.agent_ca.as_ref()?;
        Some(path.to_string_lossy().into_owned())
    }

    fn in_words(&self, pipelock: u16) -> String {
        let name = &self.name;
        let program = escaped(self.program());
        let when = if self.after.is_empty() {
            "at once".to_owned()
        } else {
            format!("when {} ready", all_are(&self.after))
        };
        let memory = self
            .memory_mib
            .map_or_else(String::new, |mib| format!(", with at most {mib} MiB"));
        let may_listen = |port: &u16| {
            let is_proxy = self.agent_proxy == Some(*port);
            format!(
                "{port}{}",
                if is_proxy { " (the agent's proxy)" } else { "" }
            )
        };
        let may_connect = |port: &u16| {
            let whose = match (*port == pipelock, self.proxy) {
                (false, _) => "",
                (true, true) => " (pipelock, its proxy)",
                (true, false) => " (pipelock)",
            };
            format!("{port}{whose}")
        };
        let mut rights = format!(
            "listens on {}; connects to {}",
            or_no_port(&self.listen, may_listen),
            or_no_port(&self.connect, may_connect)
        );
        if !self.files.is_empty() {
            let files: Vec<String> = self.files().iter().map(|path| escaped(path)).collect();
            rights.push_str(&format!("; reads and executes {}", files.join(", ")));
        }
        if let Some(path) = self.agent_ca() {
            rights.push_str(&format!("; agents trust its {}", escaped(&path)));
        }
        let ready = match &self.ready {
            Ready::Exec => "its program runs".to_owned(),
            Ready::Notify => "it says so to NOTIFY_SOCKET".to_owned(),
            Ready::Tcp(port) => format!("{port} takes connections"),
            Ready::Http { port, path } => format!("{port}{} answers", escaped(path)),
        };
        let end = if self.essential {
            "without it the bundle ends"
        } else {
            "the bundle goes on without it"
        };
        format!(
            "  {name}, {when}: {program} as user {}{memory}\n    {rights}\n    ready when {ready}; {end}\n",
            self.user
        )
    }
}

fn or_no_port(ports: &[u16], shown: impl Fn(&u16) -> String) -> String {
    if ports.is_empty() {
        return "no port".to_owned();
    }
    let ports: Vec<String> = ports.iter().map(shown).collect();
    ports.join(", ")
}

/// `pipelock is`, `pipelock and egress are`
fn all_are(names: &[String]) -> String {
    match names {
        [one] => format!("{one} is"),
        [more @ .., last] => format!("{} and {last} are", more.join(", ")),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_runs_in_which_order_with_which_rights() {
        let text = "slug: x
bottle: {}
pipelock: {listen: \"127.0.0.1:8888\"}
daemons:
  egress:
    exec: [/usr/bin/mitmdump, secret]
    listen: [8080, 8081]
    connect: [9418]
    ready: {http: 8080/health}
    agent_proxy: 8080
    agent_ca: ca.pem
    env: {HOME: /secret}
    files: [/usr/lib/python3, /srv]
    memory_mib: 96
    after: [pipelock, gate]
  gate: {exec: [\"/bin/\u{fc}\"], listen: [9418], ready: notify, essential: true}
  log: {exec: [/bin/log], after: [], proxy: false, essential: false}
";
        let policy = crate::policy::read(text.as_bytes(), true, 0)
            .unwrap()
            .policy;
        assert_eq!(
            in_words(&policy.daemons, policy.listen.port()),
            "beside pipelock, in this order:
  gate, when pipelock is ready: /bin/\u{fc} as user 65532
    listens on 9418; connects to 8888 (pipelock, its proxy)
    ready when it says so to NOTIFY_SOCKET; without it the bundle ends
  egress, when pipelock and gate are ready: /usr/bin/mitmdump as user 65533, with at most 96 MiB
    listens on 8080 (the agent's proxy), 8081; connects to 9418, 8888 (pipelock, its proxy); reads and executes \
             /usr/lib/python3, /srv; agents trust its ca.pem
    ready when 8080/health answers; without it the bundle ends
  log, at once: /bin/log as user 65531
    listens on no port; connects to no port
    ready when its program runs; the bundle goes on without it
"
        );
        let data = serde_json::to_string(&shown(&policy.daemons)).unwrap();
        assert!(!data.contains("secret"), "{data}");
        assert!(data.contains("\"ready\":\"http 8080/health\""), "{data}");
        assert_eq!(in_words(&[], 8888), "");
    }
}
