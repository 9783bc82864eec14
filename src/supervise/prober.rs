//! Asks the daemon questions over HTTP without ever waiting for the answer. Touches
//! the kernel: one non-blocking connection at a time, bounded in bytes and in time.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;

use super::machine::{Answer, Silence};
use crate::daemon::pipelock::health::Ailment;
use crate::daemon::pipelock::{self, health};
use crate::sys::connections::{begin_connect, lacks_family, reachable};

/// No answer is read beyond this many bytes; `/metrics` is the longest, about 20 KB.
const LONGEST_ANSWER: usize = 512 * 1024;

/// What to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Its health, and then to refuse the canary, of a daemon that is to become ready.
    Fitness,
    /// The same, of one that is.
    Liveness,
    /// The number of open tunnels.
    Tunnels,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Health,
    Canary,
    Metrics,
}

impl Asked {
    fn request(self) -> &'static [u8] {
        match self {
            Self::Health => health::REQUEST,
            Self::Canary => pipelock::CANARY_REQUEST,
            Self::Metrics => pipelock::METRICS_REQUEST,
        }
    }
}

#[derive(Debug)]
struct Exchange {
    question: Question,
    step: Asked,
    stream: TcpStream,
    unsent: &'static [u8],
    received: Vec<u8>,
    patience: Duration,
    deadline: Instant,
}

/// What a finished question brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// For the state machine.
    pub answer: Answer,
    /// The daemon's version, where its health told it.
    pub version: Option<String>,
}

/// At most one question at a time.
#[derive(Debug)]
pub struct Prober {
    /// Where it may be asked, the likelier first.
    targets: Vec<SocketAddr>,
    /// Where it was asked last.
    target: SocketAddr,
    exchange: Option<Exchange>,
    version: Option<String>,
}

impl Prober {
    /// Asks the daemon that listens on `listen`; a wildcard address is asked on loopback.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            targets: reachable(listen),
            target: listen,
            exchange: None,
            version: None,
        }
    }

    /// Forgets the question under way, and asks the daemon on `listen` from now on.
    pub fn reset(&mut self, listen: SocketAddr) {
        *self = Self::new(listen);
    }

    /// Starts a question; one under way is dropped. A refused connection is an
    /// answer at once.
    pub fn ask(&mut self, question: Question, patience: Duration, now: Instant) -> Option<Finding> {
        let step = match question {
            Question::Fitness | Question::Liveness => Asked::Health,
            Question::Tunnels => Asked::Metrics,
        };
        self.begin(question, step, (patience, now + patience))
    }

    fn begin(
        &mut self,
        question: Question,
        step: Asked,
        (patience, deadline): (Duration, Instant),
    ) -> Option<Finding> {
        self.exchange = None;
        match self.connect() {
            Ok(stream) => {
                self.exchange = Some(Exchange {
                    question,
                    step,
                    stream,
                    unsent: step.request(),
                    received: Vec::new(),
                    patience,
                    deadline,
                });
                None
            }
            Err(errno) => Some(self.silent(errno.desc())),
        }
    }

    /// Connects to the first place that is there: a machine may have one family alone.
    fn connect(&mut self) -> Result<TcpStream, Errno> {
        let mut connected = Err(Errno::EADDRNOTAVAIL);
        for target in &self.targets {
            self.target = *target;
            connected = begin_connect(*target);
            if !connected.as_ref().is_err_and(|errno| lacks_family(*errno)) {
                break;
            }
        }
        connected
    }

    /// What to wait for.
    #[must_use]
    pub fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.exchange.as_ref().map(|exchange| {
            let flags = if exchange.unsent.is_empty() {
                PollFlags::POLLIN
            } else {
                PollFlags::POLLOUT
            };
            (exchange.stream.as_fd(), flags)
        })
    }

    /// When the answer is late.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.exchange.as_ref().map(|exchange| exchange.deadline)
    }

    /// Goes on as far as it can without waiting.
    pub fn advance(&mut self, now: Instant) -> Option<Finding> {
        let exchange = self.exchange.as_mut()?;
        while !exchange.unsent.is_empty() {
            match exchange.stream.write(exchange.unsent) {
                Ok(count) => exchange.unsent = exchange.unsent.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if waits(&error) => return self.unless_late(now),
                Err(error) => return Some(self.silent(&reason(&error))),
            }
        }
        let mut buffer = [0_u8; 4096];
        let ended = loop {
            match exchange.stream.read(&mut buffer) {
                Ok(0) => break true,
                Ok(count) => {
                    exchange.received.extend(buffer.iter().take(count));
                    if exchange.received.len() > LONGEST_ANSWER {
                        let question = exchange.step;
                        return Some(self.unfit(format!(
                            "its answer to {question:?} is longer than {LONGEST_ANSWER} bytes"
                        )));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if waits(&error) => break false,
                Err(error) => return Some(self.silent(&reason(&error))),
            }
        };
        let complete = pipelock::http::Response::parse(
            &exchange.received,
            ended,
            exchange.step == Asked::Canary,
        );
        match complete {
            Ok(Some(response)) => {
                let (question, step) = (exchange.question, exchange.step);
                let until = (exchange.patience, exchange.deadline);
                self.judge(question, step, until, &response)
            }
            Ok(None) if ended => Some(self.silent("the connection closed before the answer ended")),
            Ok(None) => self.unless_late(now),
            Err(why) => Some(self.unfit(why.to_string())),
        }
    }

    fn judge(
        &mut self,
        question: Question,
        step: Asked,
        until: (Duration, Instant),
        response: &pipelock::http::Response,
    ) -> Option<Finding> {
        match step {
            Asked::Health => match health::judge(response) {
                Ok(version) => {
                    self.version = Some(version);
                    self.begin(question, Asked::Canary, until)
                }
                Err(Ailment::Sick(why)) => Some(self.finish(Answer::Sick(why))),
                Err(Ailment::Unfit(why)) => Some(self.unfit(why)),
            },
            Asked::Canary => match pipelock::judge_canary(response) {
                Ok(()) if question == Question::Liveness => Some(self.finish(Answer::Alive)),
                Ok(()) => Some(self.finish(Answer::Fit)),
                Err(why) => Some(self.unfit(why.to_string())),
            },
            Asked::Metrics => match pipelock::open_tunnels(response) {
                Ok(count) => Some(self.finish(Answer::Tunnels(count))),
                Err(why) => Some(self.silent(&why.to_string())),
            },
        }
    }

    fn unless_late(&mut self, now: Instant) -> Option<Finding> {
        let exchange = self.exchange.as_ref()?;
        let seconds = exchange.patience.as_secs();
        if now < exchange.deadline {
            return None;
        }
        let mut finding = self.silent(&format!("no answer within {seconds} s"));
        if let Answer::Silent(silence) = &mut finding.answer {
            silence.late = true;
        }
        Some(finding)
    }

    fn silent(&mut self, why: &str) -> Finding {
        let step = self
            .exchange
            .as_ref()
            .map_or(Asked::Health, |exchange| exchange.step);
        let why = format!("{} at {}: {why}", step.subject(), self.target);
        self.finish(Answer::Silent(Silence::because(why)))
    }

    fn unfit(&mut self, why: String) -> Finding {
        self.finish(Answer::Unfit(why))
    }

    fn finish(&mut self, answer: Answer) -> Finding {
        self.exchange = None;
        Finding {
            answer,
            version: self.version.clone(),
        }
    }
}

impl Asked {
    fn subject(self) -> &'static str {
        match self {
            Self::Health => "/health",
            Self::Canary => "the canary",
            Self::Metrics => "/metrics",
        }
    }
}

fn waits(error: &io::Error) -> bool {
    // ENOTCONN: the connection is still being made.
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
    )
}

fn reason(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || error.to_string(),
        |raw| Errno::from_raw(raw).desc().to_owned(),
    )
}
