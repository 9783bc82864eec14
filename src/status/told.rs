//! A status as its readers find it: in the run directory or the export, written by another
//! process that may have been killed since, or by somebody else. Touches the file system.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::plain;
use crate::status::denials;
use crate::status::schema::{
    FILE, LONGEST_SENTENCE, MAX_BYTES, OLDEST_SCHEMA, SCHEMA, State, Status, Word, object,
};
use crate::sys::claim::{self, Life, Seen};
use crate::sys::files::{FileError, Room};

/// Why there is no status to read.
#[derive(Debug)]
pub enum StatusError {
    /// The file, or its directory.
    File(FileError),
    /// What stands in it.
    Content(PathBuf, ContentError),
    /// Nobody could read it, for this reason.
    Unread(PathBuf, String),
    /// Whoever read it says so.
    Told(String),
    /// An init starts there, and has not written it yet.
    NotYet(PathBuf),
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) if error.is_missing() => write!(
                f,
                "{error}\nhint: no sidecar-init runs with this run directory; name another with --run-dir, \
                 for status and watch an export will do"
            ),
            Self::File(error) => error.fmt(f),
            Self::Content(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            Self::Unread(path, why) => write!(f, "cannot read {}: {why}", path.display()),
            Self::Told(why) => f.write_str(why),
            Self::NotYet(path) => write!(
                f,
                "cannot read {}: the sidecar-init that starts there has not written it yet",
                path.display()
            ),
        }
    }
}

impl std::error::Error for StatusError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => Some(error),
            Self::Content(_, error) => Some(error),
            Self::Unread(..) | Self::Told(_) | Self::NotYet(_) => None,
        }
    }
}

/// Why some bytes are no status.
#[derive(Debug)]
pub enum ContentError {
    /// They are no JSON, or a field of it has another type.
    Json(serde_json::Error),
    /// Their schema is none or another.
    Schema,
}

impl fmt::Display for ContentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // It may quote the file.
            Self::Json(error) => {
                let text = plain::line(&error.to_string());
                f.write_str(&plain::lines_within(&text, LONGEST_SENTENCE))
            }
            Self::Schema => write!(
                f,
                "it is no status of schema {SCHEMA}, which this program reads"
            ),
        }
    }
}

impl std::error::Error for ContentError {}

/// What is true of the init that wrote a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// What it says itself.
    Told(Word<State>),
    /// It is gone without having said so.
    Killed,
    /// It is there and does not move.
    Hung,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told(state) => state.fmt(f),
            Self::Killed => f.write_str("killed"),
            Self::Hung => f.write_str("hung"),
        }
    }
}

/// What is in a run directory or an export, whatever it says.
#[derive(Debug)]
pub struct Bytes {
    /// Of the status; none while whoever has the directory has not written it.
    pub status: Vec<u8>,
    /// Of the denials; none where they cannot be read.
    pub denials: Vec<u8>,
    /// What the lock says of the init that wrote them.
    pub claim: Seen,
}

/// A status that was read.
#[derive(Debug)]
pub struct StatusFile {
    /// What it says, corrected where its writer could not.
    pub status: Status,
    /// What is true of its writer.
    pub condition: Condition,
    /// What the lock says of it.
    pub claim: Seen,
    /// As it stands in the file, in one line.
    line: String,
}

impl StatusFile {
    /// Reads what is in a run directory or an export, and looks whether the init that wrote
    /// it lives, where that can be told: the bytes of the status and of the denials. Waits
    /// for a file system that does not answer.
    pub fn bytes(directory: &Path) -> Result<Bytes, StatusError> {
        let room = Room::open(directory).map_err(StatusError::File)?;
        let status = room.read(FILE, MAX_BYTES);
        let denials = denials::read(&room);
        // After the status: whoever has the directory now wrote that, or none.
        let (mut status, error) = match status {
            Ok(status) => (status, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let claim = claim::look(&room, &mut status);
        if let Some(error) = error
            && (claim.holder.is_none() || !error.is_missing())
        {
            return Err(StatusError::File(error));
        }
        Ok(Bytes {
            status,
            denials,
            claim,
        })
    }

    /// What the status at `directory` says, and what is true of its writer.
    pub fn judge(directory: &Path, bytes: &Bytes) -> Result<Self, StatusError> {
        if bytes.status.is_empty() && bytes.claim.holder.is_some() {
            return Err(StatusError::NotYet(directory.join(FILE)));
        }
        let mut file = Self::parse(&bytes.status)
            .map_err(|error| StatusError::Content(directory.join(FILE), error))?;
        file.claim = bytes.claim;
        if let Some(life) = file.claim.life {
            file.correct(life);
        }
        Ok(file)
    }

    /// What a status file says.
    pub fn parse(bytes: &[u8]) -> Result<Self, ContentError> {
        #[derive(Deserialize)]
        struct Versioned {
            #[serde(default)]
            schema: Value,
        }
        // First: another schema's fields have other types.
        let version: Versioned = from_json(bytes)?;
        let known = OLDEST_SCHEMA..=SCHEMA;
        if !known.into_iter().any(|it| version.schema == it) {
            return Err(ContentError::Schema);
        }
        let mut status: Status = from_json(bytes)?;
        status.limit();
        let text = String::from_utf8_lossy(bytes);
        // Only between its tokens: inside of strings JSON has no such character.
        let line = plain::line(text.replace(['\n', '\r', '\t'], " ").trim_end());
        Ok(Self {
            condition: Condition::Told(status.state.clone()),
            claim: Seen::default(),
            status,
            line,
        })
    }

    /// Says what its writer could not: that it was killed, or hangs.
    fn correct(&mut self, life: Life) {
        match (&self.status.state, life) {
            (Word::Known(State::Stopped | State::Failed), _) | (_, Life::Lives) => {}
            (_, Life::Gone) => {
                self.condition = Condition::Killed;
                self.status.daemon.pid = None;
            }
            // A start has stages that take their time, and none of them is called ready.
            (Word::Known(State::Starting | State::Stopping), _) => {}
            (state, Life::Hangs(silent)) => {
                self.status.error = Some(silence(silent, state));
                self.condition = Condition::Hung;
            }
        }
    }

    /// Whether its writer says so, and nothing says otherwise.
    #[must_use]
    pub fn is(&self, state: State) -> bool {
        self.condition == Condition::Told(state.into())
    }

    /// In one line: as it stands in the file, but for what was corrected.
    #[must_use]
    pub fn json(&self) -> String {
        let (field, value) = match &self.condition {
            Condition::Told(_) => return self.line.clone(),
            Condition::Killed => ("daemon", None),
            Condition::Hung => ("error", self.status.error.clone()),
        };
        let mut fields: Map<String, Value> = serde_json::from_str(&self.line).unwrap_or_default();
        fields.insert("state".to_owned(), self.condition.to_string().into());
        match (fields.get_mut(field), value) {
            (Some(Value::Object(daemon)), None) => {
                daemon.insert("pid".to_owned(), Value::Null);
            }
            (Some(field), Some(text)) => *field = text.into(),
            _ => {}
        }
        plain::json(&fields, self.line.len())
    }
}

fn silence(silent: Duration, state: &Word<State>) -> String {
    format!(
        "sidecar-init has not been heard of for {} s; it was {state} then",
        silent.as_secs()
    )
}

/// An object, and nothing after it.
fn from_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ContentError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    object(&mut json)
        .and_then(|it| json.end().map(|()| it))
        .map_err(ContentError::Json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::timeline;

    fn read(text: &str) -> StatusFile {
        StatusFile::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_hostile_status_is_printed_as_text() {
        let hostile = br#"{"schema":1,
            "slug":"\u001b[2J\u202e<script>","stages":[{"stage":"a\u0085\u2028b","at_us":18446744073709551615,"took_us":18446744073709551615}]}"#;
        let told = StatusFile::parse(hostile).unwrap();
        assert_eq!(
            told.status.slug.as_deref(),
            Some("\\u001b[2J\\u202e<script>")
        );
        let year = 31_536_000_000_000;
        assert_eq!(
            timeline::stages(&told.status),
            [("a\\u0085\\u2028b".to_owned(), year, year)]
        );
        assert!(!told.json().contains('\n'));
        let picture = timeline::svg(&told.status);
        assert!(!picture.contains("<script"), "{picture}");
        assert!(timeline::waterfall(&told.status).len() < 1000);
    }

    #[test]
    fn takes_what_it_does_not_know_and_what_is_missing() {
        let told = read(r#"{"schema":1,"state":"dreaming","new":[{}],"daemon":{"new":1}}"#);
        assert_eq!(told.condition.to_string(), "dreaming");
        assert!(!told.is(State::Ready));
        assert_eq!(told.status.restarts, 0);
        assert_eq!(read(r#"{"schema":1}"#).condition.to_string(), "");
        // And numbers that nothing has.
        let most = u64::MAX;
        let told = read(&format!(
            r#"{{"schema":1,"daemon":{{"pid":{most}}},"scan_limit_mib":{most},
            "stages":[7,[],["ca",1],{{}},{{"stage":"ca","at_us":-1}},{{"stage":"ca","at_us":1}}]}}"#
        ));
        assert_eq!(told.status.daemon.pid, Some(i32::MAX));
        assert_eq!(told.status.scan_limit_mib, Some(2_147_483_647));
        assert_eq!(told.status.stages.len(), 1);
    }

    #[test]
    fn a_field_of_another_type_is_no_zero_and_no_nothing() {
        for fields in [
            r#""restarts":"3""#,
            r#""restarts":-3"#,
            r#""restarts":null"#,
            r#""restarts":1.5"#,
            r#""failures":[3]"#,
            r#""config":{"applied_generation":"2"}"#,
            r#""config":[2,2]"#,
            r#""config":[]"#,
            r#""config":null"#,
            r#""daemon":[]"#,
            r#""daemon":{"pid":"7"}"#,
            r#""scan_limit_mib":-7"#,
            r#""scan_limit_mib":"7""#,
            r#""daemon":{"trouble":true}"#,
            r#""state":7"#,
            r#""state":{"ready":null}"#,
            r#""error":["why"]"#,
            r#""warnings":"one""#,
            r#""port":[]"#,
            r#""port":{"closed":"true"}"#,
            r#""ca":[]"#,
            r#""revocation":{"more":"5"}"#,
            r#""last_exit":"killed""#,
            r#""stages":{}"#,
        ] {
            let text = format!(r#"{{"schema":1,{fields}}}"#);
            let error = StatusFile::parse(text.as_bytes()).unwrap_err();
            let error = error.to_string();
            assert!(error.starts_with("invalid "), "{fields}: {error}");
        }
        for text in [
            "[1]",
            "{\"schema\":\"1\"}",
            "{\"schema\":2,\"state\":7}",
            "{}",
        ] {
            assert!(StatusFile::parse(text.as_bytes()).is_err(), "{text}");
        }
        // What is quoted of it is a line, and short.
        let long = format!(
            r#"{{"schema":1,"restarts":"\u001b[2J\n{}"}}"#,
            "x".repeat(1 << 19)
        );
        let error = StatusFile::parse(long.as_bytes()).unwrap_err().to_string();
        assert!(error.len() <= LONGEST_SENTENCE, "{}", error.len());
        assert!(plain::is_plain(error.replace('…', "").as_bytes()) && !error.contains('\n'));
    }

    #[test]
    fn says_what_its_writer_could_not_and_leaves_the_rest() {
        let text = r#"{"schema":1,"state":"ready","error":null,"daemon":{"pid":7,"new":1},"last_lines":["x"]}"#;
        let mut told = read(text);
        told.correct(Life::Lives);
        assert!(told.is(State::Ready));
        assert_eq!(told.json(), text);
        told.correct(Life::Hangs(Duration::from_secs(12)));
        assert_eq!(told.condition, Condition::Hung);
        let json: Value = serde_json::from_str(&told.json()).unwrap();
        assert_eq!(json["state"], "hung");
        let why = "sidecar-init has not been heard of for 12 s; it was ready then";
        assert_eq!(json["error"], why);
        assert_eq!(json["daemon"]["pid"], 7);
        let mut told = read(text);
        told.correct(Life::Gone);
        assert_eq!(
            (&told.condition, told.status.daemon.pid),
            (&Condition::Killed, None)
        );
        let json: Value = serde_json::from_str(&told.json()).unwrap();
        assert_eq!(json["state"], "killed");
        assert_eq!(json["daemon"], serde_json::json!({"pid": null, "new": 1}));
        assert_eq!(json["last_lines"], serde_json::json!(["x"]));
        // An end was the last word, and a start and a stop take their time.
        for (state, life) in [
            ("stopped", Life::Gone),
            ("failed", Life::Gone),
            ("starting", Life::Hangs(Duration::from_secs(60))),
            ("stopping", Life::Hangs(Duration::from_secs(60))),
        ] {
            let text = format!(r#"{{"schema":1,"state":"{state}"}}"#);
            let mut told = read(&text);
            told.correct(life);
            assert_eq!(told.condition.to_string(), state);
        }
    }
}
