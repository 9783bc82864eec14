//! Hot reload: the config's directory watched, HUP heard, and what loosens a
//! strict configuration refused whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::config::{self, Config, go_words};
use crate::events::{self, Context};
use crate::state::Shared;
use crate::{ca, run};

const DEBOUNCE: Duration = Duration::from_millis(100);
/// Within this of the last success the same bytes are not news.
const FORGET_REPEATS_AFTER: Duration = Duration::from_secs(2);

/// A watched configuration file.
pub struct Reloader {
    path: String,
    listen: Option<String>,
    last: Option<(String, Instant)>,
    changes: UnboundedReceiver<()>,
    hangup: Signal,
    _watcher: RecommendedWatcher,
}

impl Reloader {
    /// Watches, then hears HUP. In this order: where the directory cannot be
    /// watched, pipelock leaves HUP deadly.
    ///
    /// # Errors
    /// In pipelock's words.
    pub fn start(path: &str, listen: Option<String>) -> Result<Self, String> {
        let directory = match Path::new(path).parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let name = Path::new(path).file_name().map(ToOwned::to_owned);
        let (sender, changes) = unbounded_channel();
        let concerns_us = move |event: &notify::Event| {
            matches!(
                event.kind,
                EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Name(_))
            ) && event.paths.iter().any(|p| p.file_name() == name.as_deref())
        };
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<_>| {
            if event.is_ok_and(|e| concerns_us(&e)) {
                let _ = sender.send(());
            }
        })
        .map_err(|e| format!("creating file watcher: {e}"))?;
        let failed = |e: notify::Error| {
            let cause = match &e.kind {
                notify::ErrorKind::Io(e) => go_words(e),
                notify::ErrorKind::PathNotFound => "no such file or directory".to_owned(),
                _ => e.to_string(),
            };
            format!("watching directory {}: {cause}", directory.display())
        };
        watcher
            .watch(&directory, RecursiveMode::NonRecursive)
            .map_err(failed)?;
        let hangup = signal(SignalKind::hangup()).map_err(|e| go_words(&e))?;
        let path = path.to_owned();
        Ok(Self {
            path,
            listen,
            last: None,
            changes,
            hangup,
            _watcher: watcher,
        })
    }

    /// Reloads whenever there is a reason to, for ever.
    pub async fn run(mut self, shared: Arc<Shared>) {
        let mut due: Option<tokio::time::Instant> = None;
        loop {
            let debounced = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(()) = self.changes.recv() => {
                    due = Some(tokio::time::Instant::now() + DEBOUNCE);
                    continue;
                }
                () = debounced => due = None,
                Some(()) = self.hangup.recv() => {}
            }
            if !shared.faults.drop_reload {
                self.reload(&shared).await;
            }
        }
    }

    async fn reload(&mut self, shared: &Shared) {
        let mut new = match config::load(&self.path) {
            Ok(new) => new,
            Err(e) => {
                eprintln!("pipelock: config reload failed: {e}");
                return;
            }
        };
        let about = Context {
            method: "CONFIG_RELOAD".to_owned(),
            resource: self.path.clone(),
            ..Context::default()
        };
        let old = shared.runtime();
        if !old.config.forward_proxy && new.forward_proxy {
            reject(
                &about,
                "forward proxy cannot be enabled via reload (requires restart)",
            )
            .await;
            return;
        }
        let repeated = self
            .last
            .as_ref()
            .is_some_and(|(hash, at)| *hash == new.hash && at.elapsed() < FORGET_REPEATS_AFTER);
        if repeated {
            return;
        }
        let downgrades = old.config.downgrades(&new);
        for (field, message) in &downgrades {
            eprintln!("WARNING: config reload: {field} - {message}");
        }
        if old.config.mode == "strict" && !downgrades.is_empty() {
            reject(&about, "security downgrade from strict mode").await;
            return;
        }
        if let Some(listen) = &self.listen {
            listen.clone_into(&mut new.listen);
        }
        self.take_over(shared, new, &about).await;
    }

    async fn take_over(&mut self, shared: &Shared, new: Config, about: &Context) {
        match ca::load(&new) {
            Ok(authority) => shared.replace_authority(authority),
            Err(e) => {
                let cause = format!("TLS cert cache reload failed: {e}");
                events::error(about, &cause).send("request error").await;
            }
        }
        let (mode, hash) = (new.mode.clone(), new.hash.clone());
        shared.replace(new);
        let said = run::said_hash(&shared.faults, &hash);
        events::config_reload(&mode, &said)
            .send("configuration reloaded")
            .await;
        self.last = Some((hash, Instant::now()));
    }
}

/// Says twice that a reload was refused: pipelock's reload logs it, and so does
/// whoever called it.
async fn reject(about: &Context, cause: &str) {
    let cause = format!("rejected: {cause}");
    for _ in 0..2 {
        events::error(about, &cause).send("request error").await;
    }
}
