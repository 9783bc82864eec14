//! Daemons as they are written to daemons as they are to run, with everything that is wrong
//! with each and with all of them together. Pure.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::super::{Judge, integer, judge_bool, text_or_quotes};
use super::order::{all_before, order};
use super::values::{
    judge_argument, judge_below, judge_file, judge_http, judge_listen, judge_name, judge_port,
    judge_program, judge_ready, judge_value, judge_variable, no_place_for, no_readiness,
    not_listened, one_word,
};
use super::{Daemon, FIRST_USER, LEAST_MIB, NEEDED_MIB, PIPELOCK, Ready, credential, lacking_mib};
use crate::manifest::{
    self, Kind, Name, Position, Probe, Rejection, Scalar, Section, WordOr, nearest, quoted,
};
use crate::sandbox::landlock::PROGRAMS;

/// The most bytes that the arguments and the environment of one daemon have together: a
/// quarter of what execve(2) takes with the smallest stack that is allowed.
const MAX_ALL: usize = 32 * 1024;

/// The most memory a daemon may be given, in MiB.
const MOST_MIB: u32 = 1024 * 1024;

/// An entry of a list, and where it stands.
struct Entry<T> {
    value: T,
    index: usize,
    at: Position,
}

/// A daemon with what its problems are tied to.
struct Given<'a> {
    name: &'a Scalar,
    keys: &'a manifest::Daemon,
    section: Section,
    listen: Vec<Entry<u16>>,
    connect: Vec<Entry<u16>>,
    after: Vec<Entry<String>>,
    daemon: Daemon,
}

impl Judge {
    /// The daemons in the order in which they begin. Where something is wrong they are no good,
    /// and it has been said.
    pub(in crate::policy) fn daemons(
        &mut self,
        given: &[(Scalar, manifest::Daemon)],
        listen: SocketAddr,
    ) -> Vec<Daemon> {
        if given.is_empty() {
            return Vec::new();
        }
        // Where that was refused nothing is said of its port.
        let is_known = !self.problems.names("pipelock.listen");
        let pipelock = Some(listen).filter(|_| is_known);
        let mut all: Vec<Given> = Vec::new();
        for ((name, keys), user) in given.iter().zip((0..=FIRST_USER).rev()) {
            all.push(self.daemon(name, keys, user));
        }
        self.ports_once(&all, pipelock);
        self.agent_proxies(&all, pipelock);
        let after = self.known_after(&all);
        let (order, circles) = order(&after);
        for circle in circles {
            self.circle(&all, &circle);
        }
        self.essential(&all, &after);
        self.notes_of(&all, &after);
        for one in &mut all {
            let daemon = &mut one.daemon;
            let port = listen.port();
            if daemon.proxy && !daemon.connect.contains(&port) {
                daemon.connect.push(port);
            }
        }
        self.past_pipelock(&all, listen.port());
        let mut daemons: Vec<Option<Daemon>> = Vec::new();
        let mut last_claim = None;
        for one in all {
            if let (Some(mib), Some(scalar)) = (one.daemon.memory_mib, &one.keys.memory_mib)
                && last_claim.is_none_or(|(most, _, _)| mib >= most)
            {
                last_claim = Some((mib, scalar.at, one.section));
            }
            daemons.push(Some(one.daemon));
        }
        let take = |index: usize| daemons.get_mut(index)?.take();
        let daemons: Vec<Daemon> = order.into_iter().filter_map(take).collect();
        if let Some((_, at, section)) = last_claim
            && let Some(memory) = (self.memory)()
            && let Some(lacking) = lacking_mib(&daemons, memory)
        {
            self.refuse(Some(at), section.key("memory_mib"), || {
                Rejection::new(format!(
                    "what the daemons may have, and {NEEDED_MIB} MiB for pipelock and the machine, are more than \
                     the {} MiB there are",
                    memory >> 20
                ))
                .hint(format!(
                    "take {lacking} MiB from them, or give the machine as much more"
                ))
            });
        }
        daemons
    }

    /// One daemon, judged by itself.
    fn daemon<'a>(&mut self, name: &'a Scalar, keys: &'a manifest::Daemon, user: u32) -> Given<'a> {
        let section = Section::Daemon(Name::of(&name.text));
        if let Err(refusal) = judge_name(name) {
            self.refuse(Some(name.at), section.path(), || refusal);
        }
        let flag = |judge: &mut Self, key, given: &Option<Scalar>| {
            judge.judge(section, key, given.as_ref(), judge_bool)
        };
        let essential = flag(self, "essential", &keys.essential).unwrap_or(true);
        let proxy = flag(self, "proxy", &keys.proxy).unwrap_or(true);
        let exec = self.exec(section, name, &keys.exec);
        let env = self.environment(name, &keys.env, proxy);
        let of_exec: usize = exec.iter().map(|text| text.len() + 1).sum();
        let of_env: usize = env.iter().map(|(name, it)| name.len() + it.len() + 2).sum();
        if of_exec + of_env > MAX_ALL {
            self.refuse(Some(name.at), section.path(), || {
                Rejection::new(format!(
                    "its arguments and its environment have {} bytes, more than {MAX_ALL}",
                    of_exec + of_env
                ))
                .hint("put what is long into a file, and name it in files")
            });
        }
        let listen = self.each(section, "listen", &keys.listen, judge_listen);
        let connect = self.each(section, "connect", &keys.connect, judge_port);
        let files = self.each(section, "files", &keys.files, |scalar| {
            judge_file(scalar, &name.text)
        });
        let after = match &keys.after {
            None => Vec::new(),
            Some(given) => self.each(section, "after", given, |scalar| {
                text_or_quotes(scalar, "daemon's name", |_| true).map(str::to_owned)
            }),
        };
        // What is no port has been said to be none.
        let are_known =
            listen.len() == keys.listen.len() && !self.problems.names(&section.key("listen"));
        let own: Vec<u16> = listen.iter().map(|port| port.value).collect();
        let own_port = |port: u16| {
            if own.contains(&port) || !are_known {
                Ok(port)
            } else {
                Err(not_listened(port, &own))
            }
        };
        let ready = self.ready(&name.text, keys.ready.as_ref(), &own_port);
        let agent_proxy = self.judge(section, "agent_proxy", keys.agent_proxy.as_ref(), |it| {
            own_port(judge_port(it)?)
        });
        let agent_ca = self.judge(section, "agent_ca", keys.agent_ca.as_ref(), |scalar| {
            let path = judge_below(scalar)?;
            if keys.agent_proxy.is_none() {
                return Err(Rejection::new(
                    "agents trust the authority of their proxy alone, and this daemon is not it",
                )
                .hint("write agent_proxy and the port, or remove agent_ca"));
            }
            Ok(path)
        });
        let memory_mib = self.judge(section, "memory_mib", keys.memory_mib.as_ref(), |it| {
            integer(it, LEAST_MIB, MOST_MIB)
        });
        let names: Vec<String> = after.iter().map(|entry| entry.value.clone()).collect();
        let daemon = Daemon {
            name: name.text.to_string(),
            exec,
            connect: connect.iter().map(|port| port.value).collect(),
            listen: own,
            ready,
            agent_proxy,
            agent_ca,
            env,
            files: files.into_iter().map(|file| file.value).collect(),
            memory_mib,
            after: match keys.after {
                Some(_) => names,
                None => vec![PIPELOCK.to_owned()],
            },
            essential,
            proxy,
            user,
        };
        Given {
            name,
            keys,
            section,
            listen,
            connect,
            after,
            daemon,
        }
    }

    /// The rule's results for what is in a list; what is there twice is a fault.
    fn each<T: PartialEq>(
        &mut self,
        section: Section,
        key: &str,
        given: &[Scalar],
        rule: impl Fn(&Scalar) -> Result<T, Rejection>,
    ) -> Vec<Entry<T>> {
        let mut entries: Vec<Entry<T>> = Vec::new();
        for (index, scalar) in given.iter().enumerate() {
            let judged = rule(scalar).and_then(|value| {
                if entries.iter().any(|entry| entry.value == value) {
                    let twice = format!("{} is there twice", quoted(&scalar.text));
                    return Err(Rejection::new(twice).hint("remove one of them"));
                }
                Ok(value)
            });
            let at = scalar.at;
            match judged {
                Ok(value) => entries.push(Entry { value, index, at }),
                Err(refusal) => self.refuse(Some(at), item(section, key, index), || refusal),
            }
        }
        entries
    }

    /// The program and its arguments.
    fn exec(&mut self, section: Section, name: &Scalar, given: &[Scalar]) -> Vec<String> {
        let field = section.key("exec");
        let is_told = [&field, &section.path()].map(|field| self.problems.names(field));
        if given.is_empty() && self.complete && !is_told.contains(&true) {
            self.refuse(Some(name.at), field, || {
                Rejection::new("required, and not there")
                    .hint("write exec: [/usr/bin/PROGRAM], its arguments behind it")
            });
        }
        let mut exec = Vec::new();
        for (index, scalar) in given.iter().enumerate() {
            let judged = match index {
                0 => judge_program(scalar),
                _ => judge_argument(scalar),
            };
            match judged {
                Ok(text) => {
                    if index == 0 && given.len() == 1 && text.contains(" -") {
                        self.warn(scalar.at, item(section, "exec", 0), || one_word(&text));
                    }
                    if let Some(what) = credential::found_in(&text) {
                        self.warn(scalar.at, item(section, "exec", index), || {
                            no_place_for(what, "a command line", &name.text, "NAME")
                        });
                    }
                    exec.push(text);
                }
                Err(refusal) => {
                    self.refuse(Some(scalar.at), item(section, "exec", index), || refusal);
                }
            }
        }
        exec
    }

    /// The variables. No value of one is ever shown: it may be a secret.
    fn environment(
        &mut self,
        daemon: &Scalar,
        given: &[(Scalar, Scalar)],
        proxy: bool,
    ) -> Vec<(String, String)> {
        let section = Section::Variables(Name::of(&daemon.text));
        let mut variables: Vec<(String, String)> = Vec::new();
        for (name, value) in given {
            let field = || section.key(&name.text);
            let is_known = variables.iter().any(|(known, _)| **known == *name.text);
            let judged = if is_known {
                Err(Rejection::new("the variable is there twice").hint("remove one of them"))
            } else {
                judge_variable(&name.text, proxy)
            };
            if let Err(refusal) = judged {
                self.refuse(Some(name.at), field(), || refusal);
            }
            match judge_value(value) {
                Ok(value_text) => {
                    if let Some(what) = credential::in_variable(&name.text, value_text) {
                        self.warn(value.at, field(), || {
                            no_place_for(what, "an environment", &daemon.text, &name.text)
                        });
                    }
                    variables.push((name.text.to_string(), value_text.to_owned()));
                }
                Err(refusal) => self.refuse(Some(value.at), field(), || refusal),
            }
        }
        variables
    }

    /// When it is ready.
    fn ready(
        &mut self,
        daemon: &str,
        given: Option<&WordOr<Probe>>,
        own_port: &dyn Fn(u16) -> Result<u16, Rejection>,
    ) -> Ready {
        let section = Section::Ready(Name::of(daemon));
        let (at, probe) = match given {
            None => return Ready::Exec,
            Some(WordOr::Word(scalar)) => {
                let whole = Section::Daemon(Name::of(daemon));
                let judged = self.judge(whole, "ready", Some(scalar), judge_ready);
                return judged.unwrap_or_default();
            }
            Some(WordOr::Mapping(at, probe)) => (*at, probe),
        };
        let tcp = self.judge(section, "tcp", probe.tcp.as_ref(), |scalar| {
            own_port(judge_port(scalar)?)
        });
        let http = self.judge(section, "http", probe.http.as_ref(), |scalar| {
            let (port, path) = judge_http(scalar)?;
            Ok((own_port(port)?, path))
        });
        let is_there = |scalar: &Option<Scalar>| {
            let scalar = scalar.as_ref();
            scalar.is_some_and(|scalar| scalar.kind() != Kind::Null)
        };
        match (is_there(&probe.tcp), is_there(&probe.http)) {
            (true, true) => self.refuse(Some(at), section.path(), || {
                Rejection::new("tcp and http are two answers to one question")
                    .hint("keep one of them")
            }),
            (false, false) => {
                // An unknown key in it has been said to be none.
                let is_told = self.problems.begins_with(&section.path());
                if !is_told {
                    self.refuse(Some(at), section.path(), || {
                        no_readiness("an empty mapping")
                    });
                }
            }
            _ => {}
        }
        match (tcp, http) {
            (Some(port), _) => Ready::Tcp(port),
            (_, Some((port, path))) => Ready::Http { port, path },
            _ => Ready::Exec,
        }
    }

    /// No port is two daemons', or pipelock's too.
    fn ports_once(&mut self, all: &[Given], pipelock: Option<SocketAddr>) {
        let mut claimed: Vec<(u16, String)> = Vec::new();
        let port = pipelock.map(|listen| listen.port());
        claimed.extend(port.map(|port| (port, PIPELOCK.to_owned())));
        let wanted = |port: &u16| {
            let mut all = all.iter().flat_map(|one| &one.listen);
            all.any(|entry| entry.value == *port)
        };
        for one in all {
            for entry in &one.listen {
                let port = entry.value;
                let owner = claimed.iter().find(|(known, _)| *known == port);
                let Some((_, owner)) = owner else {
                    claimed.push((port, one.name.text.to_string()));
                    continue;
                };
                let mut others = (port..=u16::MAX).chain(1024..port);
                let free = others.find(|it| !wanted(it) && Some(*it) != pipelock_port(pipelock));
                self.refuse(
                    Some(entry.at),
                    item(one.section, "listen", entry.index),
                    || {
                        let refusal =
                            Rejection::new(format!("{port} is the port of {}", whose(owner)));
                        match free {
                            Some(free) => refusal.hint(format!("write {free}")),
                            None => refusal,
                        }
                    },
                );
            }
        }
    }

    /// The agent has one proxy, and no other way out.
    fn agent_proxies(&mut self, all: &[Given], pipelock: Option<SocketAddr>) {
        let mut first: Option<&Given> = None;
        for one in all {
            let Some(scalar) = &one.keys.agent_proxy else {
                continue;
            };
            if scalar.kind() == Kind::Null {
                continue;
            }
            let (at, field) = (Some(scalar.at), one.section.key("agent_proxy"));
            if let Some(first) = first {
                self.refuse(at, field, || {
                    Rejection::new(format!(
                        "the agent has one proxy, and that is {}",
                        whose(&first.name.text)
                    ))
                    .hint("remove one of the two")
                });
                continue;
            }
            first = Some(one);
            if let Some(listen) = pipelock.filter(|listen| !listen.ip().is_loopback()) {
                self.refuse(at, field.clone(), || {
                    Rejection::new(format!(
                        "pipelock listens on {listen}, where the agent reaches it past this proxy"
                    ))
                    .hint(format!(
                        "under pipelock: write listen: 127.0.0.1:{}",
                        listen.port()
                    ))
                });
            }
            let port = pipelock_port(pipelock);
            let connects = one.daemon.proxy
                || port.is_none_or(|port| one.daemon.connect.contains(&port))
                || self.problems.begins_with(&one.section.key("connect"));
            if let Some(port) = port.filter(|_| !connects) {
                self.refuse(at, field, || {
                    Rejection::new(format!(
                        "the agent's proxy may not connect to {port}, where pipelock listens: nothing could leave"
                    ))
                    .hint(format!("add {port} to {}", one.section.key("connect")))
                });
            }
            if let Some(essential) = one
                .keys
                .essential
                .as_ref()
                .filter(|_| !one.daemon.essential)
            {
                let field = one.section.key("essential");
                self.refuse(Some(essential.at), field, || {
                    Rejection::new("without its proxy the agent has no way out: it is essential")
                        .hint("remove essential: false")
                });
            }
        }
    }

    /// What each is after, by number, where that is another daemon; pipelock is nobody's number.
    fn known_after(&mut self, all: &[Given]) -> Vec<Vec<usize>> {
        let mut after = Vec::new();
        for (own, one) in all.iter().enumerate() {
            let mut known = Vec::new();
            for entry in &one.after {
                let found = all.iter().position(|it| *it.name.text == *entry.value);
                let refusal = match found {
                    _ if entry.value == PIPELOCK => continue,
                    Some(found) if found != own => {
                        known.push(found);
                        continue;
                    }
                    Some(_) => Rejection::new("nothing begins after itself").hint("remove it"),
                    None => {
                        let names = all.iter().map(|it| &*it.name.text);
                        let names = names.filter(|name| **name != *one.name.text);
                        let near = nearest(&entry.value, names.chain([PIPELOCK]));
                        let refusal = Rejection::new(format!(
                            "{} is none of the daemons",
                            quoted(&entry.value)
                        ));
                        match near {
                            Some(near) => refusal.hint(format!("did you mean \"{near}\"?")),
                            None => refusal.hint("write a name below daemons, or pipelock"),
                        }
                    }
                };
                let field = item(one.section, "after", entry.index);
                self.refuse(Some(entry.at), field, || refusal);
            }
            after.push(known);
        }
        after
    }

    /// Each of them waits for the next, and the last for the first.
    fn circle(&mut self, all: &[Given], circle: &[usize]) {
        let circle: Vec<&Given> = circle.iter().filter_map(|index| all.get(*index)).collect();
        let (Some(first), Some(last)) = (circle.first(), circle.last()) else {
            return;
        };
        let entry = |one: &Given, other: &Given| {
            let mut after = one.after.iter();
            let found = after.find(|entry| *entry.value == *other.name.text)?;
            Some((found.at, item(one.section, "after", found.index)))
        };
        let Some((at, field)) = circle.get(1).and_then(|second| entry(first, second)) else {
            return;
        };
        self.refuse(Some(at), field, || {
            let names = circle.iter().chain([first]).map(|one| &*one.name.text);
            let names: Vec<&str> = names.collect();
            Rejection::new(format!(
                "none of these could begin: {}",
                names.join(" after ")
            ))
            .hint(format!(
                "take {} out of {}",
                first.name.text,
                last.section.key("after")
            ))
        });
    }

    /// What an essential daemon waits for cannot be done without either.
    fn essential(&mut self, all: &[Given], after: &[Vec<usize>]) {
        for (one, after) in all.iter().zip(after) {
            let others = after.iter().filter_map(|index| all.get(*index));
            for other in others.filter(|it| one.daemon.essential && !it.daemon.essential) {
                let mut entries = one.after.iter();
                let entry = entries.find(|entry| *entry.value == *other.name.text);
                let Some(entry) = entry else {
                    continue;
                };
                self.refuse(
                    Some(entry.at),
                    item(one.section, "after", entry.index),
                    || {
                        Rejection::new(format!(
                            "{} may give up and the bundle goes on, and then this one, which is essential, could \
                             never begin",
                            whose(&other.name.text)
                        ))
                        .hint(format!(
                            "remove {}: false, or write essential: false here too",
                            other.section.key("essential")
                        ))
                    },
                );
            }
        }
    }

    /// What is no mistake, and may hurt.
    fn notes_of(&mut self, all: &[Given], after: &[Vec<usize>]) {
        for (index, one) in all.iter().enumerate() {
            let before = all_before(after, index);
            let mut waiting = before.iter().chain([&index]);
            let waits = waiting.any(|it| {
                let daemon = all.get(*it).map(|it| &it.daemon);
                daemon.is_some_and(|daemon| daemon.after.iter().any(|name| name == PIPELOCK))
            });
            if one.daemon.proxy && !waits {
                self.note(one.name.at, one.section.key("after"), || {
                    Rejection::new("it does not wait for pipelock, which is its proxy: until that is there, what it asks for is refused")
                        .hint("add pipelock to after, or write proxy: false")
                });
            }
            let is_null = |it: &Scalar| it.kind() == Kind::Null;
            let is_unsaid = match &one.keys.ready {
                None => true,
                Some(WordOr::Word(word)) => is_null(word),
                Some(WordOr::Mapping(..)) => false,
            };
            if is_unsaid && let Some(port) = one.daemon.listen.first() {
                self.note(one.name.at, one.section.key("ready"), || {
                    Rejection::new(
                        "it counts as ready when its program runs, whether it listens or not",
                    )
                    .hint(format!("write ready: {{tcp: {port}}}"))
                });
            }
            if let Some((index, script)) = script(&one.daemon.exec)
                && let Some(scalar) = one.keys.exec.get(index)
                && !is_read(Path::new(script), &one.daemon)
            {
                let field = item(one.section, "exec", index);
                self.note(scalar.at, field, || {
                    Rejection::new(format!(
                        "{} is not among what it may read: an argument lets nobody read a file",
                        quoted(script)
                    ))
                    .hint(format!("add {script} to {}", one.section.key("files")))
                });
            }
            for entry in &one.connect {
                let listens = |it: &Given| it.daemon.listen.contains(&entry.value);
                let whose_port = all.iter().position(listens).filter(|it| *it != index);
                let Some((other, whose_port)) = whose_port.and_then(|it| Some((all.get(it)?, it)))
                else {
                    continue;
                };
                let waits = before.contains(&whose_port);
                if waits || all_before(after, whose_port).contains(&index) {
                    continue;
                }
                let field = item(one.section, "connect", entry.index);
                let name = &other.name.text;
                self.note(entry.at, field, || {
                    Rejection::new(format!(
                        "{} is where {} listens, for which this one does not wait",
                        entry.value,
                        whose(name)
                    ))
                    .hint(format!(
                        "add {name} to {}, unless it bears to be refused at first",
                        one.section.key("after")
                    ))
                });
            }
        }
    }

    /// What the agent's proxy may reach that is neither pipelock nor another daemon.
    fn past_pipelock(&mut self, all: &[Given], pipelock: u16) {
        for one in all.iter().filter(|one| one.daemon.agent_proxy.is_some()) {
            for entry in &one.connect {
                let port = entry.value;
                let mut others = all.iter().flat_map(|it| &it.daemon.listen);
                if port == pipelock || others.any(|it| *it == port) {
                    continue;
                }
                self.warn(entry.at, item(one.section, "connect", entry.index), || {
                    Rejection::new(format!(
                        "through port {port} the agent's proxy may reach any host past pipelock, which allows and scans \
                         nothing there"
                    ))
                    .hint(format!("remove {port}, unless this proxy is to be trusted with that"))
                });
            }
        }
    }

    fn warn(&mut self, at: Position, field: String, warning: impl FnOnce() -> Rejection) {
        self.warnings.add(|| warning().at(Some(at), field));
    }

    fn note(&mut self, at: Position, field: String, note: impl FnOnce() -> Rejection) {
        self.notes.add(|| note().at(Some(at), field));
    }
}

/// Of a command whose program is an interpreter what that is to run, if it is a path from the
/// root on, and the number of that argument.
fn script(exec: &[String]) -> Option<(usize, &str)> {
    const INTERPRETERS: [&str; 9] = [
        "python", "pypy", "sh", "bash", "dash", "node", "perl", "ruby", "php",
    ];
    let program = exec.first()?.rsplit('/').next()?;
    let name = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if !INTERPRETERS.contains(&name) {
        return None;
    }
    let mut arguments = exec.iter().enumerate().skip(1);
    let (index, first) = arguments.find(|(_, argument)| !argument.starts_with('-'))?;
    first.starts_with('/').then_some((index, first.as_str()))
}

/// Whether a daemon that is not static reads what is at this path.
fn is_read(path: &Path, daemon: &Daemon) -> bool {
    let own = Path::new("/run/sidecar").join(&daemon.name);
    let programs = PROGRAMS.iter().map(Path::new);
    let mut places = programs.chain(daemon.files.iter().map(PathBuf::as_path));
    path.starts_with(own) || places.any(|place| path.starts_with(place))
}

fn pipelock_port(listen: Option<SocketAddr>) -> Option<u16> {
    listen.map(|listen| listen.port())
}

/// The path of an entry of a list.
fn item(section: Section, key: &str, index: usize) -> String {
    format!("{}[{index}]", section.key(key))
}

/// A daemon as a sentence names it.
fn whose(name: &str) -> String {
    match name {
        PIPELOCK => PIPELOCK.to_owned(),
        name => Section::Daemons.key(name),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::super::super::{Policy, read, read_within};
    use super::*;

    const BEFORE: &str = "slug: x\nbottle: {}\npipelock: {listen: \"127.0.0.1:8888\"}\ndaemons:\n";

    fn manifest(daemons: &str) -> String {
        format!("{BEFORE}{daemons}")
    }

    fn policy(daemons: &str) -> Policy {
        let read = read(manifest(daemons).as_bytes(), true, 0);
        read.unwrap_or_else(|refused| panic!("{}", refused.in_words("m")))
            .policy
    }

    /// What is wrong with one daemon `a` with these keys, without the field it is in.
    fn wrong(keys: &str) -> Vec<String> {
        let text = manifest(&format!("  a: {{exec: [/bin/a], {keys}}}\n"));
        let problems = match read(text.as_bytes(), true, 0) {
            Ok(_) => Vec::new(),
            Err(refused) => refused.problems,
        };
        let shown = problems.iter().map(|problem| {
            assert_eq!(problem.line, Some(5), "{problem:?}");
            let shown = problem.display("m").to_string();
            shown.strip_prefix("m:5: daemons.a.").unwrap().to_owned()
        });
        shown.collect()
    }

    fn told(text: &str) -> (Vec<String>, Vec<String>) {
        let judgement = read(text.as_bytes(), true, 0).unwrap();
        let shown = |problems: &[manifest::Problem]| {
            let shown = problems.iter().map(|it| it.display("m").to_string());
            shown.collect::<Vec<_>>()
        };
        (shown(&judgement.warnings), shown(&judgement.notes))
    }

    #[test]
    fn a_daemon_with_its_program_alone_has_what_is_usual() {
        assert_eq!(
            policy("  a: {exec: [/bin/a]}\n").daemons,
            [Daemon {
                name: "a".into(),
                exec: vec!["/bin/a".into()],
                listen: vec![],
                connect: vec![8888],
                ready: Ready::Exec,
                agent_proxy: None,
                agent_ca: None,
                env: vec![],
                files: vec![],
                memory_mib: None,
                after: vec![PIPELOCK.into()],
                essential: true,
                proxy: true,
                user: 65533,
            }]
        );
        for none in ["", "daemons:\n", "daemons: ~\n", "daemons: {}\n"] {
            let text = format!("slug: x\nbottle: {{}}\n{none}");
            assert_eq!(read(text.as_bytes(), true, 0).unwrap().policy.daemons, []);
        }
    }

    #[test]
    fn every_key_says_what_it_says() {
        let daemons = policy(
            "  egress:
    exec: [/usr//bin/mitmdump/, --port, \"8080\", \"\", \"a\\nb\"]
    listen: [8080, 8081]
    connect: [8888, 9418]
    ready: {http: 8081/health?x=1}
    agent_proxy: 8080
    agent_ca: ca/./ca.pem
    env: {HOME: /run/sidecar/egress, EMPTY: \"\", N: \"1\"}
    files: [/usr/lib/python3/, /etc/ssl]
    memory_mib: 96
    after: [gate, pipelock]
  gate:
    exec: [/bin/gate]
    listen: [9418]
    ready: notify
    proxy: false
    after: []
  log: {exec: [/bin/log], essential: false, ready: {tcp: 5000}, listen: [5000], env: {HTTPS_PROXY: x}, proxy: false}
",
        )
        .daemons;
        let names: Vec<&str> = daemons.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["gate", "egress", "log"]);
        let [gate, egress, log] = &daemons[..] else {
            panic!("three daemons");
        };
        assert_eq!((egress.user, gate.user, log.user), (65533, 65532, 65531));
        assert_eq!(
            egress.exec,
            ["/usr/bin/mitmdump", "--port", "8080", "", "a\nb"]
        );
        assert_eq!(egress.listen, [8080, 8081]);
        assert_eq!(egress.connect, [8888, 9418]);
        let path = "/health?x=1".to_owned();
        assert_eq!(egress.ready, Ready::Http { port: 8081, path });
        assert_eq!(egress.agent_proxy, Some(8080));
        assert_eq!(egress.agent_ca, Some(PathBuf::from("ca/ca.pem")));
        assert_eq!(egress.env.len(), 3);
        assert_eq!(
            egress.files,
            [Path::new("/usr/lib/python3"), Path::new("/etc/ssl")]
        );
        assert_eq!(egress.memory_mib, Some(96));
        assert_eq!(egress.after, ["gate", "pipelock"]);
        assert_eq!(gate.ready, Ready::Notify);
        assert_eq!((&gate.after[..], &gate.connect[..]), (&[][..], &[][..]));
        assert_eq!((log.essential, &log.ready), (false, &Ready::Tcp(5000)));
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "a table")]
    fn what_is_wrong_with_a_key_is_said_with_what_to_write() {
        for (keys, wanted) in [
            (
                "exe: 1",
                "exe: unknown key\nhint: did you mean \"exec\"? that is there already",
            ),
            (
                "listen: 8080",
                "listen: \"8080\" stands where a list is wanted\nhint: write [8080]",
            ),
            (
                "listen: [80]",
                "listen[0]: 80 is a privileged port, which a daemon may not bind: none is root\nhint: write a port \
                 from 1024 on, such as 8080",
            ),
            (
                "listen: [0]",
                "listen[0]: \"0\" is not an integer from 1 to 65535",
            ),
            (
                "listen: [65536]",
                "listen[0]: \"65536\" is not an integer from 1 to 65535",
            ),
            (
                "listen: [\"8080\"]",
                "listen[0]: \"8080\" is not an integer from 1 to 65535\nhint: write it without quotes and leading zeros",
            ),
            ("listen: [[8080]]", "listen[0]: not a port"),
            (
                "listen: [8080, 8080]",
                "listen[1]: \"8080\" is there twice\nhint: remove one of them",
            ),
            (
                "listen: [8888]",
                "listen[0]: 8888 is the port of pipelock\nhint: write 8889",
            ),
            (
                "connect: [0]",
                "connect[0]: \"0\" is not an integer from 1 to 65535",
            ),
            (
                "connect: [22, 22]",
                "connect[1]: \"22\" is there twice\nhint: remove one of them",
            ),
            (
                "ready: 8080",
                "ready: \"8080\" does not say when the daemon is ready\nhint: write {tcp: 8080}",
            ),
            (
                "ready: notfy",
                "ready: \"notfy\" does not say when the daemon is ready\nhint: did you mean \"notify\"?",
            ),
            (
                "ready: {}",
                "ready: an empty mapping does not say when the daemon is ready\nhint: write notify, {tcp: PORT} or \
                 {http: \"PORT/path\"}; its exec is enough without the key",
            ),
            (
                "ready: {tpc: 1}",
                "ready.tpc: unknown key\nhint: did you mean \"tcp\"?",
            ),
            (
                "ready: [tcp]",
                "ready: a list stands where a word or a mapping is wanted",
            ),
            (
                "ready: {tcp: 8080}",
                "ready.tcp: 8080 is none of the ports it listens on\nhint: write listen: [8080] beside it",
            ),
            (
                "listen: [8080], ready: {tcp: 8080, http: 8080/}",
                "ready: tcp and http are two answers to one question\nhint: keep one of them",
            ),
            (
                "listen: [8080], ready: {http: \"http://127.0.0.1:8080/health\"}",
                "ready.http: \"http://127.0.0.1:8080/health\" is not a port and a path behind it\nhint: write \
                 \"8080/health\"",
            ),
            (
                "listen: [8080], ready: {http: 8080}",
                "ready.http: \"8080\" is not a port and a path behind it\nhint: write \"8080/\"",
            ),
            (
                "listen: [8080], ready: {http: \"8080/a b\"}",
                "ready.http: \"8080/a b\" is not a port and a path behind it\nhint: write them as in \"8080/health\"",
            ),
            (
                "listen: [8080], ready: {http: \"8080/\\r\\nx\"}",
                "ready.http: \"8080/\\r\\nx\" is not a port and a path behind it\nhint: write them as in \
                 \"8080/health\"",
            ),
            (
                "listen: [8080], agent_proxy: 8081",
                "agent_proxy: 8081 is none of the ports it listens on\nhint: write 8080, or add 8081 to listen",
            ),
            (
                "listen: [8080], agent_proxy: 8080, proxy: false",
                "agent_proxy: the agent's proxy may not connect to 8888, where pipelock listens: nothing could \
                 leave\nhint: add 8888 to daemons.a.connect",
            ),
            (
                "listen: [8080], agent_proxy: 8080, proxy: false, connect: [8888]",
                "",
            ),
            (
                "listen: [8080], agent_proxy: 8080, essential: false",
                "essential: without its proxy the agent has no way out: it is essential\nhint: remove essential: \
                 false",
            ),
            (
                "agent_ca: ca.pem",
                "agent_ca: agents trust the authority of their proxy alone, and this daemon is not it\nhint: write \
                 agent_proxy and the port, or remove agent_ca",
            ),
            (
                "listen: [8080], agent_proxy: 8080, agent_ca: /run/sidecar/a/ca.pem",
                "agent_ca: \"/run/sidecar/a/ca.pem\" is not a path below the daemon's own directory\nhint: write \
                 \"ca.pem\"",
            ),
            (
                "listen: [8080], agent_proxy: 8080, agent_ca: ../b/ca.pem",
                "agent_ca: \"../b/ca.pem\" is not a path below the daemon's own directory\nhint: write it without \
                 \"/\" before it and without \"..\"",
            ),
            (
                "env: {1A: x}",
                "env.1A: \"1A\" is not a variable's name: it takes letters, digits and \"_\" after a letter or \
                 \"_\", at most 128",
            ),
            (
                "env: {A: x, A: y}",
                "env.A: the variable is there twice\nhint: remove one of them",
            ),
            (
                "env: {A: }",
                "env.A: the variable has no value\nhint: write \"\"",
            ),
            // Nothing that a variable holds is shown.
            (
                "env: {A: 4711}",
                "env.A: YAML takes the value for a number or a boolean, and a variable has text\nhint: put it in \
                 quotes",
            ),
            (
                "env: {A: \"x\\0\"}",
                "env.A: no variable can hold a NUL\nhint: remove \"\\0\"",
            ),
            (
                "env: {NOTIFY_SOCKET: x}, proxy: false",
                "env.NOTIFY_SOCKET: the init sets this variable itself\nhint: remove it",
            ),
            (
                "env: {https_proxy: x}",
                "env.https_proxy: the init sets this variable itself\nhint: remove it, or write proxy: false for a \
                 daemon that does not ask through pipelock",
            ),
            (
                "files: [lib]",
                "files[0]: \"lib\" is not an absolute path\nhint: write it from / on",
            ),
            (
                "files: [/usr/../etc/x]",
                "files[0]: \"/usr/../etc/x\" leads back by \"..\"\nhint: write \"/etc/x\"",
            ),
            (
                "files: [//]",
                "files[0]: \"/\" is everything there is\nhint: name what it reads, one by one",
            ),
            (
                "files: [/etc]",
                "files[0]: \"/etc\" holds /etc/sidecar, which is kept from every daemon\nhint: name what it reads \
                 below that, one by one",
            ),
            (
                "files: [/run/sidecar/b]",
                "files[0]: \"/run/sidecar/b\" is kept from every daemon: /run/sidecar holds secrets or what others \
                 run on\nhint: remove it; its secrets are what is in credentials/a beside the manifest",
            ),
            (
                "files: [/run/sidecar/a/x]",
                "files[0]: \"/run/sidecar/a/x\" is in its own directory, which it reads and writes without \
                 that\nhint: remove it",
            ),
            (
                "files: [/etc/pipelock-ca-key.pem]",
                "files[0]: \"/etc/pipelock-ca-key.pem\" is kept from every daemon: /etc/pipelock-ca-key.pem holds \
                 secrets or what others run on\nhint: remove it; its secrets are what is in credentials/a beside the \
                 manifest",
            ),
            (
                "memory_mib: 3",
                "memory_mib: \"3\" is not an integer from 4 to 1048576",
            ),
            (
                "after: [a]",
                "after[0]: nothing begins after itself\nhint: remove it",
            ),
            (
                "after: [pipelok]",
                "after[0]: \"pipelok\" is none of the daemons\nhint: did you mean \"pipelock\"?",
            ),
            (
                "after: [xyzzy]",
                "after[0]: \"xyzzy\" is none of the daemons\nhint: write a name below daemons, or pipelock",
            ),
            (
                "after: pipelock",
                "after: \"pipelock\" stands where a list is wanted\nhint: write [pipelock]",
            ),
            (
                "after: [pipelock, pipelock]",
                "after[1]: \"pipelock\" is there twice\nhint: remove one of them",
            ),
            (
                "essential: yes",
                "essential: \"yes\" is neither true nor false\nhint: write true, without quotes",
            ),
            (
                "proxy: 0",
                "proxy: \"0\" is neither true nor false\nhint: write false, without quotes",
            ),
        ] {
            let wanted: Vec<&str> = Some(wanted)
                .filter(|it| !it.is_empty())
                .into_iter()
                .collect();
            assert_eq!(wrong(keys), wanted, "{keys}");
        }
    }

    #[test]
    fn a_program_is_a_path_and_its_arguments_are_texts() {
        for (exec, wanted) in [
            (
                "~",
                "exec: required, and not there\nhint: write exec: [/usr/bin/PROGRAM], its arguments behind it",
            ),
            (
                "[]",
                "exec: required, and not there\nhint: write exec: [/usr/bin/PROGRAM], its arguments behind it",
            ),
            (
                "'/bin/a --port 8080 --x=y,z'",
                "exec: \"/bin/a --port 8080 --x=y,z\" stands where a list is wanted\nhint: write [/bin/a, --port, \
                 \"8080\", \"--x=y,z\"]",
            ),
            ("a --x", "exec: \"a --x\" stands where a list is wanted"),
            (
                "[mitmdump]",
                "exec[0]: \"mitmdump\" is not an absolute path\nhint: write \"/usr/bin/mitmdump\", or where else it \
                 is",
            ),
            (
                "[./a]",
                "exec[0]: \"./a\" is not an absolute path\nhint: write it from / on",
            ),
            (
                "[/a/../b]",
                "exec[0]: \"/a/../b\" leads back by \"..\"\nhint: write \"/b\"",
            ),
            (
                "[/]",
                "exec[0]: \"/\" is no program\nhint: write its whole path",
            ),
            (
                "[\"/a\\0\"]",
                "exec[0]: \"/a\\0\" is not a path: it takes 1 to 4095 bytes without control characters",
            ),
            (
                "[/a, 1]",
                "exec[1]: \"1\" is a number, not an argument\nhint: put it in quotes: \"1\"",
            ),
            (
                "[/a, ~]",
                "exec[1]: \"~\" is nothing, not an argument\nhint: put it in quotes: \"~\"",
            ),
            (
                "[/a, \"\\0\"]",
                "exec[1]: no argument can hold a NUL\nhint: remove \"\\0\"",
            ),
            (
                "[/a, *.py]",
                "exec[1]: \"*.py\" is an alias to YAML, because it begins with \"*\" and stands without quotes\nhint: \
                 put it in quotes: \"*.py\"",
            ),
            ("[/a, {b: c}]", "exec[1]: not an argument"),
        ] {
            let text = manifest(&format!("  a: {{exec: {exec}}}\n"));
            let problems = read(text.as_bytes(), true, 0).unwrap_err().problems;
            let shown: Vec<_> = problems
                .iter()
                .map(|it| it.display("m").to_string())
                .collect();
            assert_eq!(shown, [format!("m:5: daemons.a.{wanted}")], "{exec}");
        }
    }

    #[test]
    fn what_is_long_or_many_is_refused_and_its_bound_is_named() {
        let listed = |entry: &str, times| vec![entry; times].join(", ");
        for (keys, wanted) in [
            (
                format!("env: {{A: \"{}\"}}", "x".repeat(4097)),
                "env.A: the value has 4097 bytes, more than 4096",
            ),
            (
                format!("connect: [{}]", listed("x", 65)),
                "connect[64]: a list may have 64 entries, and here are more",
            ),
            (
                format!("after: [{}]", listed("x", 10)),
                "after[9]: a list may have 9 entries, and here are more",
            ),
            (
                format!(
                    "env: {{{}}}",
                    (0..66)
                        .map(|n| format!("A{n}: x"))
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
                "env.A64: a daemon may have 64 variables, and here are more",
            ),
        ] {
            let problems = wrong(&keys);
            let found = problems.iter().any(|problem| problem.starts_with(wanted));
            assert!(found, "{problems:?}");
        }
        let much = format!("  a: {{exec: [/a, {}]}}\n", listed(&"x".repeat(4096), 8));
        let problems = read(manifest(&much).as_bytes(), true, 0)
            .unwrap_err()
            .problems;
        assert_eq!(
            problems[0].display("m").to_string(),
            "m:5: daemons.a: its arguments and its environment have 32779 bytes, more than 32768\nhint: put what is \
             long into a file, and name it in files"
        );
        let eight: String = (0..8)
            .map(|n| format!("  d{n}: {{exec: [/a]}}\n"))
            .collect();
        assert_eq!(policy(&eight).daemons.len(), 8);
        let problems = read(
            manifest(&format!("{eight}  e: {{}}\n  f: {{}}\n")).as_bytes(),
            true,
            0,
        )
        .unwrap_err()
        .problems;
        let shown: Vec<_> = problems
            .iter()
            .map(|it| it.display("m").to_string())
            .collect();
        assert_eq!(
            shown,
            ["m:13: daemons.e: at most 8 daemons run beside pipelock, and here are more"]
        );
    }

    #[test]
    fn a_name_is_a_label_that_is_nobody_else_s() {
        let usual = "is not a daemon's name: it takes lower-case letters, digits and hyphens between them, at most 32";
        let long = "a".repeat(33);
        for (name, field, wanted) in [
            ("Git_Gate", "Git_Gate", format!("\"Git_Gate\" {usual}\nhint: write \"git-gate\"")),
            ("-a", "-a", format!("\"-a\" {usual}\nhint: write \"a\"")),
            ("''", "\"\"", format!("\"\" {usual}")),
            ("a.b", "\"a.b\"", format!("\"a.b\" {usual}\nhint: write \"a-b\"")),
            (&long, &long[1..], format!("\"{long}\" {usual}\nhint: write \"{}\"", &long[1..])),
            (
                "1",
                "1",
                "\"1\" is not a daemon's name: YAML takes it for a number or a boolean\nhint: put it in quotes: \"1\""
                    .to_owned(),
            ),
            (
                "'1'",
                "1",
                "\"1\" is not a daemon's name: clients take it for an address\nhint: begin it with a letter".to_owned(),
            ),
            (
                "pipelock",
                "pipelock",
                "pipelock is built in, and no daemon besides it\nhint: its settings are under pipelock:, beside \
                 daemons:"
                    .to_owned(),
            ),
            (
                "export",
                "export",
                "\"export\" is the name of the directory that the host is told in\nhint: write \"export-daemon\""
                    .to_owned(),
            ),
            (
                "<<",
                "<<",
                "merge keys are not read\nhint: write the keys out".to_owned(),
            ),
        ] {
            let text = manifest(&format!("  {name}: {{exec: [/bin/a]}}\n"));
            let problems = read(text.as_bytes(), true, 0).unwrap_err().problems;
            let shown: Vec<_> = problems.iter().map(|it| it.display("m").to_string()).collect();
            assert_eq!(shown, [format!("m:5: daemons.{field}: {wanted}")], "{name}");
        }
        let twice = manifest("  a: {exec: [/bin/a]}\n  a: {exec: [/bin/a]}\n  b: word\n  c:\n");
        let problems = read(twice.as_bytes(), true, 0).unwrap_err().problems;
        let shown: Vec<_> = problems
            .iter()
            .map(|it| it.display("m").to_string())
            .collect();
        assert_eq!(
            shown,
            [
                "m:6: daemons.a: the key is there twice; each may be written once",
                "m:7: daemons.b: \"word\" stands where a mapping is wanted",
                "m:8: daemons.c.exec: required, and not there\nhint: write exec: [/usr/bin/PROGRAM], its arguments \
                 behind it",
            ]
        );
    }

    #[test]
    fn what_is_wrong_between_daemons_is_said_where_it_stands() {
        let text = manifest(
            "  a: {exec: [/bin/a], listen: [8080], after: [b], agent_proxy: 8080}
  b: {exec: [/bin/b], listen: [8080, 8082], after: [c, d], agent_proxy: 8082}
  c: {exec: [/bin/c], listen: [8081], after: [a]}
  d: {exec: [/bin/d], essential: false}
",
        )
        .replace("127.0.0.1", "0.0.0.0");
        let problems = read(text.as_bytes(), true, 0).unwrap_err().problems;
        let shown: Vec<_> = problems
            .iter()
            .map(|it| it.display("m").to_string())
            .collect();
        assert_eq!(
            shown,
            [
                "m:5: daemons.a.after[0]: none of these could begin: a after b after c after a\nhint: take a out of \
                 daemons.c.after",
                "m:5: daemons.a.agent_proxy: pipelock listens on 0.0.0.0:8888, where the agent reaches it past this \
                 proxy\nhint: under pipelock: write listen: 127.0.0.1:8888",
                "m:6: daemons.b.listen[0]: 8080 is the port of daemons.a\nhint: write 8083",
                "m:6: daemons.b.after[1]: daemons.d may give up and the bundle goes on, and then this one, which is \
                 essential, could never begin\nhint: remove daemons.d.essential: false, or write essential: false \
                 here too",
                "m:6: daemons.b.agent_proxy: the agent has one proxy, and that is daemons.a\nhint: remove one of the \
                 two",
            ]
        );
        // Of a pipelock that listens nowhere nothing is said.
        let text = manifest("  a: {exec: [/bin/a], listen: [8888], agent_proxy: 8888}\n")
            .replace("127.0.0.1:8888", "x");
        let problems = read(text.as_bytes(), true, 0).unwrap_err().problems;
        let fields: Vec<_> = problems.iter().map(|it| it.field.as_str()).collect();
        assert_eq!(fields, ["pipelock.listen"]);
    }

    #[test]
    fn memory_that_the_machine_has_not_is_an_error_where_the_machine_is_known() {
        let text = manifest(
            "  a: {exec: [/bin/a], memory_mib: 96}\n  b: {exec: [/bin/b], memory_mib: 128}\n  c: {exec: [/bin/c]}\n",
        );
        let within = |mib: u64| {
            read_within(text.as_bytes(), true, 0, move || Some(mib << 20))
                .map_err(|refused| refused.in_words("m"))
        };
        assert!(read(text.as_bytes(), true, 0).is_ok());
        assert!(within(288).is_ok());
        assert_eq!(
            within(280).unwrap_err(),
            "m:6: daemons.b.memory_mib: what the daemons may have, and 64 MiB for pipelock and the machine, are more \
             than the 280 MiB there are\nhint: take 8 MiB from them, or give the machine as much more"
        );
        let none = manifest("  c: {exec: [/bin/c]}\n");
        assert!(read_within(none.as_bytes(), true, 0, || Some(32 << 20)).is_ok());
        // Whoever was promised nothing waits for nobody who counts it.
        assert!(read_within(none.as_bytes(), true, 0, || panic!("nobody asks")).is_ok());
    }

    #[test]
    fn what_is_no_mistake_and_may_hurt_is_told() {
        let token = format!("ghp_{}", "a1".repeat(18));
        let (warnings, notes) = told(&manifest(&format!(
            "  egress: {{exec: [/bin/e, --t={token}], listen: [8080], agent_proxy: 8080, connect: [443, 9418], env: \
             {{T: {token}}}}}
  gate: {{exec: [/bin/g], listen: [9418], ready: exec, after: []}}
  one: {{exec: [/bin/o --x], after: [gate], connect: [9418], proxy: false}}
"
        )));
        assert_eq!(
            warnings,
            [
                "m:5: daemons.egress.exec[1]: a GitHub token stands here, it seems, and a command line is no place \
                 for one: it stays in the manifest, and whatever the daemon starts has it too\nhint: put it into \
                 credentials/egress/NAME beside the manifest, which the daemon alone reads below \
                 $CREDENTIALS_DIRECTORY",
                "m:5: daemons.egress.connect[0]: through port 443 the agent's proxy may reach any host past \
                 pipelock, which allows and scans nothing there\nhint: remove 443, unless this proxy is to be \
                 trusted with that",
                "m:5: daemons.egress.env.T: a GitHub token stands here, it seems, and an environment is no place for \
                 one: it stays in the manifest, and whatever the daemon starts has it too\nhint: put it into \
                 credentials/egress/T beside the manifest, which the daemon alone reads below \
                 $CREDENTIALS_DIRECTORY",
                "m:7: daemons.one.exec[0]: \"/bin/o --x\" is one word, and so the name of a program, blanks and \
                 all\nhint: write exec: [/bin/o, --x]",
            ]
        );
        assert_eq!(
            notes,
            [
                "m:5: daemons.egress.ready: it counts as ready when its program runs, whether it listens or \
                 not\nhint: write ready: {tcp: 8080}",
                "m:5: daemons.egress.connect[1]: 9418 is where daemons.gate listens, for which this one does not \
                 wait\nhint: add gate to daemons.egress.after, unless it bears to be refused at first",
                "m:6: daemons.gate.after: it does not wait for pipelock, which is its proxy: until that is there, \
                 what it asks for is refused\nhint: add pipelock to after, or write proxy: false",
            ]
        );
    }

    #[test]
    fn a_script_that_its_daemon_cannot_read_is_told() {
        for (keys, wanted) in [
            (
                "exec: [/usr/bin/python3, -u, /srv/gate.py, \"9000\"]",
                Some("exec[2]: \"/srv/gate.py\""),
            ),
            (
                "exec: [/usr/bin/python3.11, /srv/gate.py]",
                Some("exec[1]: \"/srv/gate.py\""),
            ),
            (
                "exec: [/bin/sh, /srv/tick.sh]",
                Some("exec[1]: \"/srv/tick.sh\""),
            ),
            ("exec: [/bin/sh, /srv/tick.sh], files: [/srv]", None),
            (
                "exec: [/bin/sh, /srvs/tick.sh], files: [/srv]",
                Some("exec[1]"),
            ),
            ("exec: [/bin/sh, /usr/lib/own/tick.sh]", None),
            ("exec: [/bin/sh, /run/sidecar/a/made.sh]", None),
            ("exec: [/bin/sh, -c, /srv/tick.sh]", Some("exec[2]")),
            (
                "exec: [/usr/bin/python3, -m, http.server, --directory, /srv]",
                None,
            ),
            // Its own business: a path may be of a request, or of a file that it makes.
            ("exec: [/usr/bin/gate, /srv/x]", None),
        ] {
            let (_, notes) = told(&manifest(&format!("  a: {{{keys}}}\n")));
            match wanted {
                None => assert!(notes.is_empty(), "{keys}: {notes:?}"),
                Some(field) => {
                    let [note] = &notes[..] else {
                        panic!("{keys}: {notes:?}")
                    };
                    assert!(
                        note.starts_with(&format!("m:5: daemons.a.{field}")),
                        "{note}"
                    );
                    assert!(note.contains(" to daemons.a.files"), "{note}");
                }
            }
        }
    }

    /// A small generator with a fixed seed (xorshift64): the same manifests every time.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % limit as u64).unwrap()
        }

        fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
            all[self.below(all.len())]
        }
    }

    /// Some daemons; the wilder, the more is wrong with them.
    fn any_daemons(random: &mut Random, wild: bool) -> String {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let count = 1 + random.below(if wild { 10 } else { 8 });
        let mut text = String::new();
        for index in 0..count {
            let name = match names.get(index) {
                Some(name) if !wild || random.below(8) > 0 => name,
                _ => random.one_of(&["a", "B", "pipelock", "export", "<<", "1", "x.y", "[z]"]),
            };
            let port = 8000 + index;
            text.push_str(&format!(
                "  {name}:\n    exec: [/bin/x, --index, \"{index}\"]\n"
            ));
            if random.below(2) == 0 {
                text.push_str(&format!(
                    "    listen: [{port}]\n    ready: {{tcp: {port}}}\n"
                ));
            }
            // Those before it in the file and, where that may be wrong, any.
            let known = &names[..if wild { names.len() } else { index }];
            if !known.is_empty() && random.below(2) == 0 {
                let (one, other) = (random.one_of(known), random.one_of(known));
                text.push_str(&if one == other {
                    format!("    after: [{one}]\n")
                } else {
                    format!("    after: [{one}, {other}, pipelock]\n")
                });
            }
            if random.below(4) == 0 {
                text.push_str("    memory_mib: 16\n");
            }
            while wild && random.below(2) == 0 {
                text.push_str(random.one_of(&[
                    "    listen: [8000]\n",
                    "    connect: [8001, 443]\n",
                    "    agent_proxy: 8000\n",
                    "    agent_ca: ca.pem\n",
                    "    essential: false\n",
                    "    proxy: false\n",
                    "    env: {A: 1}\n",
                    "    env: {HTTPS_PROXY: x}\n",
                    "    env: x\n",
                    "    files: [/etc]\n",
                    "    files: [lib, /usr]\n",
                    "    memory_mib: x\n",
                    "    ready: {http: x}\n",
                    "    ready: [a]\n",
                    "    after: x\n",
                    "    after: [nobody]\n",
                    "    exec: x\n",
                    "    unknown: {}\n",
                    "    {}: {}\n",
                ]));
            }
        }
        text
    }

    #[test]
    fn whatever_a_manifest_says_what_is_accepted_can_begin_and_what_is_refused_has_its_line() {
        let mut random = Random(0x5eed_5eed_5eed_5eed);
        let (mut accepted, mut refused) = (0, 0);
        for turn in 0..2000 {
            let text = manifest(&any_daemons(&mut random, turn % 2 == 0));
            let lines = text.lines().count();
            match read(text.as_bytes(), true, 0) {
                Ok(judgement) => {
                    accepted += 1;
                    can_begin(&judgement.policy, &text);
                }
                Err(refusal) => {
                    refused += 1;
                    assert!(!refusal.problems.is_empty(), "{text}");
                    for problem in refusal.problems {
                        let line = problem.line.unwrap_or_default();
                        assert!((4..=lines).contains(&line), "{problem:?} of {text}");
                        let is_ours = problem.field.starts_with("daemons");
                        assert!(is_ours, "{problem:?} of {text}");
                    }
                }
            }
        }
        assert!(accepted > 700 && refused > 700, "{accepted}, {refused}");
    }

    fn can_begin(policy: &Policy, text: &str) {
        let mut begun = vec![PIPELOCK];
        let mut users = Vec::new();
        let mut ports = vec![policy.listen.port()];
        for daemon in &policy.daemons {
            for name in &daemon.after {
                assert!(begun.contains(&name.as_str()), "{name} in {text}");
            }
            begun.push(&daemon.name);
            users.push(daemon.user);
            ports.extend(&daemon.listen);
            let Some(port) = daemon.exec.get(2).and_then(|it| it.parse::<u32>().ok()) else {
                panic!("{text}");
            };
            // As many before it in the file as there are users above its own.
            assert_eq!(FIRST_USER - daemon.user, port, "{text}");
        }
        let count = ports.len();
        for list in [&mut users, &mut ports.into_iter().map(u32::from).collect()] {
            list.sort_unstable();
            list.dedup();
        }
        assert_eq!(users.len(), policy.daemons.len(), "{text}");
        let again = read(text.as_bytes(), true, 0).unwrap().policy;
        assert_eq!(&again, policy);
        assert!(count > policy.daemons.iter().map(|it| it.listen.len()).sum());
    }
}
