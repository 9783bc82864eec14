//! Asks a daemon questions over HTTP without ever waiting for the answer. Touches
//! the kernel: one non-blocking connection at a time, bounded in bytes and in time.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;

use super::machine::{Answer, Silence};
use crate::daemon::companion;
use crate::daemon::pipelock::health::Ailment;
use crate::daemon::pipelock::{self, health};
use crate::policy::daemons::Ready;
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

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// pipelock, which listens there.
    Pipelock(SocketAddr),
    /// Another, which says in this way that it is ready; and where the agent asks its way
    /// out, it has to refuse the canary there too.
    Companion(Ready, Option<u16>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Health,
    Canary,
    Metrics,
    Port,
    Page,
    AgentsCanary,
}

impl Subject {
    /// What is asked first; `None` where there is nothing to ask.
    fn first(&self, question: Question) -> Option<Asked> {
        match (self, question) {
            (Self::Pipelock(_), Question::Fitness | Question::Liveness) => Some(Asked::Health),
            (Self::Pipelock(_), Question::Tunnels) => Some(Asked::Metrics),
            (Self::Companion(Ready::Tcp(_), _), _) => Some(Asked::Port),
            (Self::Companion(Ready::Http { .. }, _), _) => Some(Asked::Page),
            (Self::Companion(Ready::Exec | Ready::Notify, agent), _) => {
                agent.map(|_| Asked::AgentsCanary)
            }
        }
    }

    /// Where that is asked, the likelier first.
    fn targets(&self, step: Asked) -> Vec<SocketAddr> {
        let port = match (self, step) {
            (Self::Pipelock(listen), _) => return reachable(*listen),
            (Self::Companion(_, Some(agent)), Asked::AgentsCanary) => *agent,
            (Self::Companion(Ready::Tcp(port) | Ready::Http { port, .. }, _), _) => *port,
            (Self::Companion(..), _) => return Vec::new(),
        };
        reachable(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
    }

    fn request(&self, step: Asked) -> Cow<'static, [u8]> {
        match (step, self) {
            (Asked::Health, _) => health::REQUEST.into(),
            (Asked::Canary, _) => pipelock::CANARY_REQUEST.into(),
            (Asked::Metrics, _) => pipelock::METRICS_REQUEST.into(),
            (Asked::AgentsCanary, _) => companion::CANARY_REQUEST.into(),
            (Asked::Page, Self::Companion(Ready::Http { path, .. }, _)) => {
                companion::page_request(path).into_bytes().into()
            }
            (Asked::Page | Asked::Port, _) => Cow::Borrowed(&[]),
        }
    }
}

#[derive(Debug)]
struct Exchange {
    question: Question,
    step: Asked,
    stream: TcpStream,
    request: Cow<'static, [u8]>,
    sent: usize,
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
    subject: Subject,
    /// Where it was asked last.
    target: SocketAddr,
    exchange: Option<Exchange>,
    version: Option<String>,
}

impl Prober {
    /// Asks this one; who listens on every address is asked on loopback.
    #[must_use]
    pub fn new(subject: Subject) -> Self {
        Self {
            subject,
            target: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            exchange: None,
            version: None,
        }
    }

    /// Forgets the question under way, and asks this one from now on.
    pub fn reset(&mut self, subject: Subject) {
        *self = Self::new(subject);
    }

    /// Starts a question; one under way is dropped. A refused connection is an
    /// answer at once, and so is it where there is nothing to ask.
    pub fn ask(&mut self, question: Question, patience: Duration, now: Instant) -> Option<Finding> {
        match self.subject.first(question) {
            Some(step) => self.begin(question, step, (patience, now + patience)),
            None => Some(self.passed(question)),
        }
    }

    fn begin(
        &mut self,
        question: Question,
        step: Asked,
        (patience, deadline): (Duration, Instant),
    ) -> Option<Finding> {
        self.exchange = None;
        match self.connect(step) {
            Ok(stream) => {
                self.exchange = Some(Exchange {
                    question,
                    step,
                    stream,
                    request: self.subject.request(step),
                    sent: 0,
                    received: Vec::new(),
                    patience,
                    deadline,
                });
                None
            }
            Err(errno) => Some(self.silent_at(step, errno.desc())),
        }
    }

    /// Connects to the first place that is there: a machine may have one family alone.
    fn connect(&mut self, step: Asked) -> Result<TcpStream, Errno> {
        let mut connected = Err(Errno::EADDRNOTAVAIL);
        for target in self.subject.targets(step) {
            self.target = target;
            connected = begin_connect(target);
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
            let is_sent = exchange.sent >= exchange.request.len();
            let flags = if is_sent && exchange.step != Asked::Port {
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
        if exchange.step == Asked::Port {
            let (question, until) = (exchange.question, (exchange.patience, exchange.deadline));
            return match (exchange.stream.take_error(), exchange.stream.peer_addr()) {
                (Ok(Some(error)) | Err(error), _) => Some(self.silent(&reason(&error))),
                (Ok(None), Ok(_)) => self.after_readiness(question, until),
                (Ok(None), Err(_)) => self.unless_late(now),
            };
        }
        while let unsent = exchange.request.get(exchange.sent..).unwrap_or_default()
            && !unsent.is_empty()
        {
            match exchange.stream.write(unsent) {
                Ok(count) => exchange.sent += count,
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
                Ok(()) => Some(self.passed(question)),
                Err(why) => Some(self.unfit(why.to_string())),
            },
            Asked::Page if companion::is_ready(response) => self.after_readiness(question, until),
            Asked::Page | Asked::Port => {
                Some(self.silent(&format!("it answers with {}", response.status)))
            }
            Asked::AgentsCanary => match companion::judge_canary(response) {
                Ok(()) => Some(self.passed(question)),
                Err(why) => Some(self.unfit(why)),
            },
            Asked::Metrics => match pipelock::open_tunnels(response) {
                Ok(count) => Some(self.finish(Answer::Tunnels(count))),
                Err(why) => Some(self.silent(&why.to_string())),
            },
        }
    }

    /// It says that it is ready: it has to refuse the canary besides, where it is an agent's
    /// way out.
    fn after_readiness(
        &mut self,
        question: Question,
        until: (Duration, Instant),
    ) -> Option<Finding> {
        match self.subject {
            Subject::Companion(_, Some(_)) => self.begin(question, Asked::AgentsCanary, until),
            _ => Some(self.passed(question)),
        }
    }

    fn passed(&mut self, question: Question) -> Finding {
        self.finish(if question == Question::Liveness {
            Answer::Alive
        } else {
            Answer::Fit
        })
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
        let step = self.exchange.as_ref();
        let step = step.map_or(Asked::Health, |exchange| exchange.step);
        self.silent_at(step, why)
    }

    fn silent_at(&mut self, step: Asked, why: &str) -> Finding {
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
            Self::Port => "its port",
            Self::Page => "its page",
            Self::AgentsCanary => "the agent's canary",
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
