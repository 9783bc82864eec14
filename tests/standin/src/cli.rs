//! The command line, in the forms pipelock's accepts. Pure.

/// What `run` was told.
#[derive(Debug, Default)]
pub struct Run {
    /// `--config`, `-c`.
    pub config: Option<String>,
    /// `--listen`, `-l`.
    pub listen: Option<String>,
    /// `--mode`, `-m`.
    pub mode: Option<String>,
}

/// What was asked for.
#[derive(Debug)]
pub enum Command {
    /// `run`.
    Run(Run),
    /// `check`.
    Check(Option<String>),
    /// `version`: several lines.
    Version,
    /// `--version`: one line.
    VersionFlag,
    /// `--help`, `help`, or nothing.
    Help,
}

/// Parses the arguments after the program's name.
///
/// # Errors
/// The words pipelock prints.
pub fn parse(arguments: &[String]) -> Result<Command, String> {
    let Some((command, rest)) = arguments.split_first() else {
        return Ok(Command::Help);
    };
    match command.as_str() {
        "run" => run(rest),
        "check" => check(rest),
        "version" => Ok(Command::Version),
        "--version" | "-v" => Ok(Command::VersionFlag),
        "help" | "--help" | "-h" => Ok(Command::Help),
        flag if flag.starts_with("--") => Err(format!("unknown flag: {flag}")),
        other => Err(format!("unknown command \"{other}\" for \"pipelock\"")),
    }
}

fn run(arguments: &[String]) -> Result<Command, String> {
    let mut run = Run::default();
    let positional = flags(arguments, |name, value| {
        let slot = match name {
            "config" | "c" => &mut run.config,
            "listen" | "l" => &mut run.listen,
            "mode" | "m" => &mut run.mode,
            _ => return false,
        };
        *slot = Some(value.to_owned());
        true
    })?;
    match positional {
        None => Ok(Command::Help),
        Some(extra) if extra.is_empty() => Ok(Command::Run(run)),
        Some(extra) => {
            let quoted: Vec<String> = extra.iter().map(|a| format!("\"{a}\"")).collect();
            let quoted = quoted.join(" ");
            Err(format!(
                "unexpected arguments [{quoted}]; pass agent args after --"
            ))
        }
    }
}

fn check(arguments: &[String]) -> Result<Command, String> {
    let mut config = None;
    let positional = flags(arguments, |name, value| {
        let known = matches!(name, "config" | "c");
        if known {
            config = Some(value.to_owned());
        }
        known
    })?;
    Ok(positional.map_or(Command::Help, |_| Command::Check(config)))
}

/// Reads flags with values: `--name value`, `--name=value`, `-n value`, `-nvalue`.
/// The result is what is no flag; `None` asks for help.
fn flags(
    arguments: &[String],
    mut take: impl FnMut(&str, &str) -> bool,
) -> Result<Option<Vec<String>>, String> {
    let mut positional = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let (name, written, inline) = if argument == "--" {
            break;
        } else if let Some(long) = argument.strip_prefix("--") {
            let (name, value) = long
                .split_once('=')
                .map_or((long, None), |(n, v)| (n, Some(v)));
            (name, format!("--{name}"), value)
        } else if let Some(short) = argument.strip_prefix('-').filter(|s| s.is_char_boundary(1)) {
            let (name, value) = short.split_at(1);
            let value = value.strip_prefix('=').unwrap_or(value);
            (
                name,
                format!("'{name}' in {argument}"),
                (!value.is_empty()).then_some(value),
            )
        } else {
            positional.push(argument.clone());
            continue;
        };
        if matches!(name, "help" | "h") {
            return Ok(None);
        }
        let known = ["config", "c", "listen", "l", "mode", "m"].contains(&name);
        let short = name.len() == 1;
        if !known {
            let what = if short { "shorthand flag" } else { "flag" };
            return Err(format!("unknown {what}: {written}"));
        }
        let value = inline.map(str::to_owned).or_else(|| rest.next().cloned());
        let value = value.ok_or_else(|| format!("flag needs an argument: {written}"))?;
        if !take(name, &value) {
            return Err(format!("unknown flag: {written}"));
        }
    }
    Ok(Some(positional))
}
