//! What each value of a daemon's keys may be, and what to write instead. Pure.

use std::path::{Component, Path, PathBuf};

use super::super::{host, integer, label, text, text_or_quotes};
use super::{
    KEPT, PIPELOCK, Ready, TAKEN, in_yaml, is_set_by_the_init, is_set_for_the_proxy, kept_from,
};
use crate::manifest::{Kind, Name, Rejection, Scalar, nearest, quoted};

/// The longest argument and the longest value of a variable, in bytes.
const MAX_TEXT: usize = 4096;

/// The longest path of a file or of a request, in bytes: `PATH_MAX` of Linux, without its NUL.
const MAX_PATH: usize = 4095;

pub(super) fn judge_name(scalar: &Scalar) -> Result<(), Rejection> {
    let name = label(scalar, "a daemon's name", Name::LONGEST)?;
    if name == PIPELOCK {
        return Err(
            Rejection::new("pipelock is built in, and no daemon besides it")
                .hint("its settings are under pipelock:, beside daemons:"),
        );
    }
    if let Some((_, what)) = TAKEN.iter().find(|(taken, _)| *taken == name) {
        return Err(Rejection::new(format!("{} is {what}", quoted(&name)))
            .hint(format!("write \"{name}-daemon\"")));
    }
    // Its name may be an alias of the machine's.
    if host::host_name(&name).is_ok() {
        return Ok(());
    }
    Err(Rejection::new(format!(
        "{} is not a daemon's name: clients take it for an address",
        quoted(&name)
    ))
    .hint("begin it with a letter"))
}

/// A path from the root on, in its usual form.
fn absolute(path: &str) -> Result<PathBuf, Rejection> {
    let refuse = |why: &str| Rejection::new(format!("{} {why}", quoted(path)));
    sound_path(path)?;
    if !path.starts_with('/') {
        return Err(refuse("is not an absolute path").hint("write it from / on"));
    }
    if Path::new(path)
        .components()
        .any(|it| it == Component::ParentDir)
    {
        let refusal = refuse("leads back by \"..\"");
        return Err(match quotable(&without_parents(path)) {
            Some(shown) => refusal.hint(format!("write \"{shown}\"")),
            None => refusal,
        });
    }
    Ok(Path::new(path).components().collect())
}

fn sound_path(path: &str) -> Result<(), Rejection> {
    if path.is_empty() || path.chars().any(char::is_control) || path.len() > MAX_PATH {
        return Err(Rejection::new(format!(
            "{} is not a path: it takes 1 to {MAX_PATH} bytes without control characters",
            quoted(path)
        )));
    }
    Ok(())
}

/// Where a path leads as it is written, links aside.
fn without_parents(path: &str) -> String {
    let mut kept = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => {
                kept.pop();
            }
            Component::Normal(name) => kept.push(name),
            _ => {}
        }
    }
    kept.to_string_lossy().into_owned()
}

/// A text that a hint can have in double quotes.
fn quotable(text: &str) -> Option<&str> {
    super::is_plain(text).then_some(text)
}

pub(super) fn judge_program(scalar: &Scalar) -> Result<String, Rejection> {
    let given = text(scalar, "path")?;
    let path = absolute(given).map_err(|refusal| {
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"_-.+".contains(&b);
        if given.bytes().all(is_name) && given.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            refusal.hint(format!("write \"/usr/bin/{given}\", or where else it is"))
        } else {
            refusal
        }
    })?;
    if path == Path::new("/") {
        return Err(Rejection::new("\"/\" is no program").hint("write its whole path"));
    }
    Ok(path.to_string_lossy().into_owned())
}

/// All of a command line in the place of its first word.
pub(super) fn one_word(text: &str) -> Rejection {
    let words: Option<Vec<String>> = text.split_whitespace().map(in_yaml).collect();
    let warning = Rejection::new(format!(
        "{} is one word, and so the name of a program, blanks and all",
        quoted(text)
    ));
    match words {
        Some(words) => warning.hint(format!("write exec: [{}]", words.join(", "))),
        None => warning.hint("write each argument as an entry of its own"),
    }
}

pub(super) fn judge_argument(scalar: &Scalar) -> Result<String, Rejection> {
    let argument = text_or_quotes(scalar, "argument", |text| quotable(text).is_some())?;
    if argument.contains('\0') {
        return Err(Rejection::new("no argument can hold a NUL").hint("remove \"\\0\""));
    }
    if argument.len() > MAX_TEXT {
        return Err(too_long("the argument", argument));
    }
    Ok(argument.to_owned())
}

fn too_long(what: &str, text: &str) -> Rejection {
    let length = text.len();
    Rejection::new(format!("{what} has {length} bytes, more than {MAX_TEXT}"))
        .hint("put it into a file, and name that in files")
}

pub(super) fn judge_port(scalar: &Scalar) -> Result<u16, Rejection> {
    let port = integer(scalar, 1, u16::MAX.into())?;
    Ok(u16::try_from(port).unwrap_or(u16::MAX))
}

pub(super) fn judge_listen(scalar: &Scalar) -> Result<u16, Rejection> {
    let port = judge_port(scalar)?;
    if port < 1024 {
        return Err(Rejection::new(format!(
            "{port} is a privileged port, which a daemon may not bind: none is root"
        ))
        // 80 and 443 are known so.
        .hint(format!(
            "write a port from 1024 on, such as {}",
            port + 8000
        )));
    }
    Ok(port)
}

pub(super) fn not_listened(port: u16, own: &[u16]) -> Rejection {
    let refusal = Rejection::new(format!("{port} is none of the ports it listens on"));
    match own {
        [] => refusal.hint(format!("write listen: [{port}] beside it")),
        [one] => refusal.hint(format!("write {one}, or add {port} to listen")),
        _ => refusal.hint(format!("add {port} to listen")),
    }
}

/// What is wrong with a word that says when a daemon is ready.
pub(super) fn no_readiness(what: &str) -> Rejection {
    Rejection::new(format!("{what} does not say when the daemon is ready")).hint(
        "write notify, {tcp: PORT} or {http: \"PORT/path\"}; its exec is enough without the key",
    )
}

pub(super) fn judge_ready(scalar: &Scalar) -> Result<Ready, Rejection> {
    let word = &*scalar.text;
    match word {
        "notify" => return Ok(Ready::Notify),
        "exec" => return Ok(Ready::Exec),
        _ => {}
    }
    let refusal = no_readiness(&quoted(word));
    Err(match meant_http(word) {
        Some((port, path)) if path == "/" && word.parse::<u16>().is_ok() => {
            refusal.hint(format!("write {{tcp: {port}}}"))
        }
        Some((port, path)) => refusal.hint(format!("write {{http: \"{port}{path}\"}}")),
        None => match nearest(word, ["notify", "exec"].into_iter()) {
            Some(near) => refusal.hint(format!("did you mean \"{near}\"?")),
            None => refusal,
        },
    })
}

/// Port and path of a question over HTTP.
pub(super) fn judge_http(scalar: &Scalar) -> Result<(u16, String), Rejection> {
    let given = &*scalar.text;
    let judged = given.split_once('/').and_then(|(port, path)| {
        let digits = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
        let port = port.parse::<u16>().ok().filter(|_| digits)?;
        Some((port, format!("/{path}")))
    });
    match judged {
        Some((port, path)) if is_request(&path) => Ok((port, path)),
        _ => {
            let refusal = Rejection::new(format!(
                "{} is not a port and a path behind it",
                quoted(given)
            ));
            Err(match meant_http(given) {
                Some((port, path)) => refusal.hint(format!("write \"{port}{path}\"")),
                None => refusal.hint("write them as in \"8080/health\""),
            })
        }
    }
}

/// Whether it can stand in the first line of a request as it is.
fn is_request(path: &str) -> bool {
    let usual = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\' && b != b'#';
    path.starts_with('/') && path.len() <= MAX_PATH && path.bytes().all(usual)
}

/// Port and path that somebody meant: of an address, or a port alone.
fn meant_http(text: &str) -> Option<(u16, String)> {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let port = host.rsplit_once(':').map_or(host, |(_, port)| port);
    let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let path = format!("/{path}");
    is_request(&path).then_some((port, path))
}

pub(super) fn judge_variable(name: &str, proxy: bool) -> Result<(), Rejection> {
    let usual = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let is_name = (1..=128).contains(&name.len())
        && name.bytes().all(usual)
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if !is_name {
        return Err(Rejection::new(format!(
            "{} is not a variable's name: it takes letters, digits and \"_\" after a letter or \"_\", at most 128",
            quoted(name)
        )));
    }
    if !is_set_by_the_init(name, proxy) {
        return Ok(());
    }
    let refusal = Rejection::new("the init sets this variable itself");
    Err(if is_set_for_the_proxy(name) {
        refusal.hint(
            "remove it, or write proxy: false for a daemon that does not ask through pipelock",
        )
    } else {
        refusal.hint("remove it")
    })
}

pub(super) fn judge_value(scalar: &Scalar) -> Result<&str, Rejection> {
    let value = &*scalar.text;
    match scalar.kind() {
        Kind::Text => {}
        Kind::Null => return Err(Rejection::new("the variable has no value").hint("write \"\"")),
        Kind::Bool(_) | Kind::Integer(_) | Kind::Float => {
            return Err(Rejection::new(
                "YAML takes the value for a number or a boolean, and a variable has text",
            )
            .hint("put it in quotes"));
        }
    }
    if value.contains('\0') {
        return Err(Rejection::new("no variable can hold a NUL").hint("remove \"\\0\""));
    }
    if value.len() > MAX_TEXT {
        return Err(too_long("the value", value));
    }
    Ok(value)
}

pub(super) fn judge_file(scalar: &Scalar, daemon: &str) -> Result<PathBuf, Rejection> {
    let path = absolute(text(scalar, "path")?)?;
    let shown = quoted(&path.to_string_lossy());
    if path == Path::new("/") {
        return Err(
            Rejection::new("\"/\" is everything there is").hint("name what it reads, one by one")
        );
    }
    let own = Path::new("/run/sidecar").join(daemon);
    if path.starts_with(&own) {
        return Err(Rejection::new(format!(
            "{shown} is in its own directory, which it reads and writes without that"
        ))
        .hint("remove it"));
    }
    let Some(kept) = kept_from(&path, KEPT.iter().map(Path::new)) else {
        return Ok(path);
    };
    let kept_shown = kept.display();
    Err(if kept == path || !kept.starts_with(&path) {
        Rejection::new(format!(
            "{shown} is kept from every daemon: {kept_shown} holds secrets or what others run on"
        ))
        .hint(
            "remove it; its secrets are what is in credentials/NAME beside the manifest"
                .replace("NAME", daemon),
        )
    } else {
        Rejection::new(format!(
            "{shown} holds {kept_shown}, which is kept from every daemon"
        ))
        .hint("name what it reads below that, one by one")
    })
}

/// A path below the daemon's own directory.
pub(super) fn judge_below(scalar: &Scalar) -> Result<PathBuf, Rejection> {
    let given = text(scalar, "path")?;
    sound_path(given)?;
    let path = Path::new(given);
    let refusal = Rejection::new(format!(
        "{} is not a path below the daemon's own directory",
        quoted(given)
    ));
    let usual = |part: Component| matches!(part, Component::Normal(_));
    if !path.components().all(usual) {
        let inside = given.strip_prefix("/run/sidecar/");
        let inside = inside.and_then(|rest| Some(rest.split_once('/')?.1));
        let inside = inside.or_else(|| given.strip_prefix("./"));
        let inside = inside.filter(|it| Path::new(it).components().all(usual));
        return Err(
            match inside.and_then(quotable).filter(|it| !it.is_empty()) {
                Some(inside) => refusal.hint(format!("write \"{inside}\"")),
                None => refusal.hint("write it without \"/\" before it and without \"..\""),
            },
        );
    }
    Ok(path.components().collect())
}

/// Where a credential stands that has a place of its own.
pub(super) fn no_place_for(what: &str, place: &str, daemon: &str, file: &str) -> Rejection {
    Rejection::new(format!(
        "{what} stands here, it seems, and {place} is no place for one: it stays in the manifest, and whatever the \
         daemon starts has it too"
    ))
    .hint(format!(
        "put it into credentials/{daemon}/{file} beside the manifest, which the daemon alone reads below \
         $CREDENTIALS_DIRECTORY"
    ))
}
