//! QEMU's machine protocol: one JSON object to a line, answers and events mixed.
//!
//! QEMU connects to us, so that nothing polls for a socket to appear.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::Error;

/// A command is answered at once unless the machine is starved.
const ANSWER_DEADLINE: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
struct State {
    stream: Option<UnixStream>,
    answers: Vec<Value>,
    shutdown_reason: Option<String>,
    closed: bool,
    next_id: u64,
}

/// The monitor of one QEMU.
#[derive(Clone, Debug, Default)]
pub(crate) struct Monitor(Arc<(Mutex<State>, Condvar)>);

impl Monitor {
    /// Listen where QEMU will connect, and read whatever it says until it ends.
    pub(crate) fn listen(socket: &Path) -> Result<Monitor, Error> {
        let listener = UnixListener::bind(socket)
            .map_err(Error::io(format!("listen on {}", socket.display())))?;
        let monitor = Monitor::default();
        let reader = monitor.clone();
        std::thread::spawn(move || {
            if let Ok((stream, _)) = listener.accept()
                && let Ok(writing) = stream.try_clone()
            {
                reader.lock().stream = Some(writing);
                for line in BufReader::new(stream).lines() {
                    let Ok(line) = line else { break };
                    reader.receive(&line);
                }
            }
            reader.lock().closed = true;
            reader.0.1.notify_all();
        });
        Ok(monitor)
    }

    /// End a listener to which QEMU never connected.
    pub(crate) fn give_up(socket: &Path) {
        // Fails when QEMU did connect: the listener is gone then.
        let _ = UnixStream::connect(socket);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(&self, line: &str) {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            return;
        };
        if message.get("QMP").is_some() {
            // Nothing else is accepted before this.
            let mut state = self.lock();
            if let Some(stream) = state.stream.as_mut() {
                let _ = writeln!(
                    stream,
                    "{}",
                    json!({"execute": "qmp_capabilities", "id": 0})
                );
            }
        } else if message.get("event").and_then(Value::as_str) == Some("SHUTDOWN") {
            self.lock().shutdown_reason = message
                .pointer("/data/reason")
                .and_then(Value::as_str)
                .map(str::to_owned);
        } else if message.get("id").is_some() {
            self.lock().answers.push(message);
        }
        self.0.1.notify_all();
    }

    /// Wait until QEMU accepts commands, which is after it has opened all it was told to.
    pub(crate) fn wait_ready(&self) -> Result<(), Error> {
        self.answer(0, "accept commands").map(drop)
    }

    /// Run a command; its `return` value.
    pub(crate) fn execute(&self, command: &str, arguments: &Value) -> Result<Value, Error> {
        let failed = |cause: String| Error::Monitor {
            command: command.to_owned(),
            cause,
        };
        let id = {
            let mut state = self.lock();
            state.next_id += 1;
            let id = state.next_id;
            let order = json!({"execute": command, "arguments": arguments, "id": id});
            let stream = state
                .stream
                .as_mut()
                .ok_or_else(|| failed("not connected".into()))?;
            writeln!(stream, "{order}").map_err(|error| failed(error.to_string()))?;
            id
        };
        self.answer(id, command)
    }

    fn answer(&self, id: u64, command: &str) -> Result<Value, Error> {
        let failed = |cause: &str| Error::Monitor {
            command: command.to_owned(),
            cause: cause.to_owned(),
        };
        let is_ours = |answer: &Value| answer.get("id").and_then(Value::as_u64) == Some(id);
        let (mut state, _) = self
            .0
            .1
            .wait_timeout_while(self.lock(), ANSWER_DEADLINE, |state| {
                !state.closed && !state.answers.iter().any(is_ours)
            })
            .unwrap_or_else(PoisonError::into_inner);
        let Some(at) = state.answers.iter().position(is_ours) else {
            return Err(failed(if state.closed {
                "QEMU has ended"
            } else {
                "no answer"
            }));
        };
        let answer = state.answers.swap_remove(at);
        match (answer.get("return"), answer.pointer("/error/desc")) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(cause)) => Err(failed(&cause.to_string())),
            (None, None) => Err(failed(&answer.to_string())),
        }
    }

    /// Why the machine ended, once QEMU has closed the connection.
    pub(crate) fn shutdown_reason(&self) -> Option<String> {
        let (state, _) = self
            .0
            .1
            .wait_timeout_while(self.lock(), ANSWER_DEADLINE, |state| !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        state.shutdown_reason.clone()
    }
}
