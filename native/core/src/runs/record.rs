//! The record of a run: the contents of its file, and how far they are believed.

use crate::os::pid::Pid;
use crate::runs::mark_loss::MarkLoss;
use leash_tag::{BootTag, RunId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The only format.
pub const FORMAT: u32 = 1;

/// The number of bytes of a record that are read. The rest is ignored, which can cost a cleanup
/// and nothing else.
pub const SIZE_LIMIT: u64 = 4 << 20;

/// The longest first line of a record, in bytes.
pub const HEAD_LIMIT: u64 = 16 << 10;

/// The VM that owns a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The VM's number in its own pid namespace.
    pub pid: u32,
    /// The VM's start in the machine's clock ticks.
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// The inode of the VM's pid namespace.
    pub pid_ns: u64,
}

/// The VM's words about itself. None of them decides anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The Erlang node.
    pub node: String,
    /// The host application.
    pub app: String,
    /// The start of the run, ISO 8601.
    pub started_at: String,
    /// Leash's version.
    pub version: String,
}

/// A command that carries the run's id in its own arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedCommand {
    /// The worker.
    pub worker: Option<u16>,
    /// The flag before the id. It is compared whole.
    pub flag: String,
    /// Every argument, the program's name first.
    pub command: Vec<Vec<u8>>,
    /// The time when the line was written, in the machine's clock ticks.
    pub at_ticks: Option<u64>,
}

/// A process that Leash attached and did not start. It may be older than the run's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedAttachment {
    /// The worker. The process and everything below it carry its mark.
    pub worker: u16,
    /// The process.
    pub pid: u32,
    /// The start of the process in the machine's clock ticks.
    pub start_ticks: u64,
}

/// The name and group of a worker, as Elixir writes them. They decide nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedName {
    /// The worker.
    pub worker: u16,
    /// The registered name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// A whole record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The run.
    pub run: RunId,
    /// The owner of the run.
    pub owner: Owner,
    /// The owner's words about itself.
    pub about: About,
    /// The ways in which processes of the run can be without a mark.
    pub mark_loss: MarkLoss,
    /// The workers whose mark is off.
    pub unmarked: Vec<u16>,
    /// The commands of workers started with `run_id_flag:`, oldest first.
    pub commands: Vec<RecordedCommand>,
    /// The processes that were attached, oldest first.
    pub attachments: Vec<RecordedAttachment>,
    /// The workers with a name or a group, oldest first. The last line of a number counts.
    pub names: Vec<RecordedName>,
    /// The directory in which the control groups of workers are, if there was one.
    pub groups: Option<String>,
}

/// The reason why a record is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Corrupt {
    /// The file is a symbolic link.
    Symlink,
    /// The file is neither regular nor a symbolic link.
    NotAFile,
    /// The file belongs to another user.
    ForeignOwner,
    /// The file's group or others may write it.
    LoosePermissions,
    /// The file is empty.
    Empty,
    /// The first line is incomplete, or is not a record's.
    Malformed,
    /// The record names another run than its file name does.
    OtherRun,
    /// The file could not be read.
    Unreadable,
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    run_id: String,
    owner: Owner,
    #[serde(flatten)]
    about: AboutRead,
    #[serde(default, skip_serializing_if = "is_default")]
    mark_loss: MarkLoss,
}

fn is_default(loss: &MarkLoss) -> bool {
    *loss == MarkLoss::default()
}

// A record is credible without these fields.
#[derive(Serialize, Deserialize)]
struct AboutRead {
    #[serde(default)]
    node: String,
    #[serde(default)]
    app: String,
    #[serde(default)]
    started_at: String,
    #[serde(default)]
    version: String,
}

#[derive(Serialize, Deserialize)]
struct CommandLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    worker: Option<u16>,
    flag: String,
    command: Vec<Arg>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at_ticks: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct AttachmentLine {
    attached: RecordedAttachment,
}

#[derive(Serialize, Deserialize)]
struct UnmarkedLine {
    unmarked: u16,
}

#[derive(Serialize, Deserialize)]
struct GroupsLine {
    groups: String,
}

#[derive(Serialize, Deserialize)]
struct NameLine {
    named: RecordedName,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Arg {
    Text(String),
    Bytes(Vec<u8>),
}

impl Record {
    /// Parses a record of a run. Skips a truncated last line and lines of an unknown kind.
    ///
    /// # Errors
    ///
    /// The reason why the record is not believed.
    pub fn parse(text: &[u8], run: RunId) -> Result<Self, Corrupt> {
        if text.is_empty() {
            return Err(Corrupt::Empty);
        }
        let mut lines = text
            .split_inclusive(|&byte| byte == b'\n')
            .filter_map(|line| line.strip_suffix(b"\n"));
        let head = lines.next().ok_or(Corrupt::Malformed)?;
        let head: Head = serde_json::from_slice(head).map_err(|_| Corrupt::Malformed)?;
        let named = RunId::parse(head.run_id.as_bytes()).ok_or(Corrupt::Malformed)?;
        if named != run {
            return Err(Corrupt::OtherRun);
        }
        let owner = head.owner;
        let sound = head.format == FORMAT
            && Pid::from_u32(owner.pid).is_some()
            && owner.boot_id.len() == 36
            && BootTag::of_boot_id(owner.boot_id.as_bytes()).is_some();
        if !sound {
            return Err(Corrupt::Malformed);
        }
        let AboutRead { node, app, started_at, version } = head.about;
        let (mut commands, mut attachments) = (Vec::new(), Vec::new());
        let (mut unmarked, mut names, mut groups) = (Vec::new(), Vec::new(), None);
        for line in lines {
            if let Some(command) = RecordedCommand::parse(line) {
                commands.push(command);
            } else if let Some(attachment) = RecordedAttachment::parse(line) {
                attachments.push(attachment);
            } else if let Ok(UnmarkedLine { unmarked: worker }) = serde_json::from_slice(line) {
                unmarked.push(worker);
            } else if let Ok(NameLine { named }) = serde_json::from_slice(line) {
                names.push(named);
            } else if let Ok(GroupsLine { groups: found }) = serde_json::from_slice(line) {
                groups = Some(found);
            }
        }
        let about = About { node, app, started_at, version };
        let mark_loss = head.mark_loss;
        Ok(Self { run, owner, about, mark_loss, unmarked, commands, attachments, names, groups })
    }

    /// Returns the first line, with its end.
    #[must_use]
    pub fn head_line(run: RunId, owner: &Owner, about: &About, mark_loss: &MarkLoss) -> Vec<u8> {
        let About { node, app, started_at, version } = about.clone();
        line(&Head {
            format: FORMAT,
            run_id: run.to_string(),
            owner: owner.clone(),
            about: AboutRead { node, app, started_at, version },
            mark_loss: mark_loss.clone(),
        })
    }

    /// Returns the line of a worker whose mark is off, with its end.
    #[must_use]
    pub fn unmarked_line(worker: u16) -> Vec<u8> {
        line(&UnmarkedLine { unmarked: worker })
    }
}

impl Record {
    /// Returns the line of the directory of control groups, with its end.
    #[must_use]
    pub fn groups_line(directory: &str) -> Vec<u8> {
        line(&GroupsLine { groups: directory.to_owned() })
    }
}

impl RecordedCommand {
    fn parse(line: &[u8]) -> Option<Self> {
        let CommandLine { worker, flag, command, at_ticks } =
            serde_json::from_slice(line).ok()?;
        let bytes = |arg| match arg {
            Arg::Text(text) => text.into_bytes(),
            Arg::Bytes(bytes) => bytes,
        };
        Some(Self { worker, flag, command: command.into_iter().map(bytes).collect(), at_ticks })
    }

    /// Returns the line, with its end.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let arg = |bytes: &Vec<u8>| match String::from_utf8(bytes.clone()) {
            Ok(text) => Arg::Text(text),
            Err(error) => Arg::Bytes(error.into_bytes()),
        };
        line(&CommandLine {
            worker: self.worker,
            flag: self.flag.clone(),
            command: self.command.iter().map(arg).collect(),
            at_ticks: self.at_ticks,
        })
    }
}

impl RecordedAttachment {
    fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok().map(|AttachmentLine { attached }| attached)
    }

    /// Returns the line, with its end.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        line(&AttachmentLine { attached: *self })
    }
}

impl RecordedName {
    /// Returns the line, with its end.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        line(&NameLine { named: self.clone() })
    }
}

fn line(value: &impl Serialize) -> Vec<u8> {
    // Plain strings and numbers always have a JSON form.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Symlink => "it is a symbolic link",
            Self::NotAFile => "it is not a file",
            Self::ForeignOwner => "it belongs to another user",
            Self::LoosePermissions => "its group or others may write it",
            Self::Empty => "it is empty",
            Self::Malformed => "its first line is not a record's",
            Self::OtherRun => "it speaks of another run than its name",
            Self::Unreadable => "it cannot be read",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str = r#"{"format":1,"run_id":"s59m65f","owner":{"pid":4711,"start_ticks":123456,"boot_id":"0a1b2c3d-0000-0000-0000-000000000000","pid_ns":4026531836},"node":"app@host","app":"my_app","started_at":"2026-01-01T00:00:00Z","version":"0.1.0"}"#;

    fn id() -> RunId {
        "s59m65f".parse().unwrap()
    }

    fn parse(text: &str) -> Result<Record, Corrupt> {
        Record::parse(text.as_bytes(), id())
    }

    #[test]
    fn reads_back_what_it_writes_in_the_agreed_form() {
        let record = parse(&format!("{HEAD}\n")).unwrap();
        assert_eq!((record.owner.pid, record.about.app.as_str()), (4711, "my_app"));
        let written =
            Record::head_line(record.run, &record.owner, &record.about, &record.mark_loss);
        assert_eq!(String::from_utf8(written).unwrap(), format!("{HEAD}\n"));
    }

    #[test]
    fn commands_follow_and_a_truncated_last_line_is_passed_over() {
        let agreed =
            r#"{"worker":3,"flag":"--snakepit-run-id","command":["python3","-u",[255,0]]}"#;
        let record = parse(&format!("{HEAD}\n{agreed}\n{{\"flag\":\"x\",\"comm")).unwrap();
        let command = RecordedCommand {
            worker: Some(3),
            flag: "--snakepit-run-id".into(),
            command: vec![b"python3".to_vec(), b"-u".to_vec(), vec![255, 0]],
            at_ticks: None,
        };
        assert_eq!(record.commands, std::slice::from_ref(&command));
        assert_eq!(String::from_utf8(command.line()).unwrap(), format!("{agreed}\n"));
    }

    #[test]
    fn attachments_stand_between_commands_and_lines_of_later_versions() {
        let agreed = r#"{"attached":{"worker":3,"pid":4711,"start_ticks":123}}"#;
        let command = r#"{"worker":4,"flag":"--id","command":["x"]}"#;
        let record = parse(&format!(
            "{HEAD}\n{agreed}\n{{\"later\":1}}\n{command}\n{{\"attached\":{{}}}}\n{agreed}"
        ))
        .unwrap();
        let attachment = RecordedAttachment { worker: 3, pid: 4711, start_ticks: 123 };
        assert_eq!(record.attachments, [attachment], "whole lines only");
        assert_eq!(record.commands.len(), 1);
        assert_eq!(String::from_utf8(attachment.line()).unwrap(), format!("{agreed}\n"));
    }

    #[test]
    fn the_directory_of_groups_follows_in_the_agreed_form() {
        let agreed = r#"{"groups":"/sys/fs/cgroup/shop"}"#;
        let record = parse(&format!("{HEAD}\n{agreed}\n{{\"groups\":7}}\n")).unwrap();
        assert_eq!(record.groups.as_deref(), Some("/sys/fs/cgroup/shop"));
        let line = Record::groups_line("/sys/fs/cgroup/shop");
        assert_eq!(String::from_utf8(line).unwrap(), format!("{agreed}\n"));
    }

    #[test]
    fn names_of_workers_follow_in_the_agreed_form() {
        let agreed = r#"{"named":{"worker":3,"name":"MyApp.W","group":":pool"}}"#;
        let record =
            parse(&format!("{HEAD}\n{agreed}\n{{\"named\":{{\"worker\":4}}}}\n")).unwrap();
        let [named, bare] = &record.names[..] else { panic!("{:?}", record.names) };
        assert_eq!((named.worker, named.name.as_deref()), (3, Some("MyApp.W")));
        assert_eq!((bare.worker, &bare.name, &bare.group), (4, &None, &None));
        assert_eq!(String::from_utf8(named.line()).unwrap(), format!("{agreed}\n"));
        assert!(record.commands.is_empty() && record.unmarked.is_empty());
    }

    #[test]
    fn how_marks_can_be_missing_stands_in_the_head_and_of_single_workers_in_lines() {
        let loss = MarkLoss {
            unmarked: false,
            resettable: true,
            control_group: Some("/system.slice/app.service".into()),
            ancestors: vec![(7, 70), (1, 2)],
        };
        let record = parse(&format!("{HEAD}\n")).unwrap();
        assert_eq!(
            record.mark_loss,
            MarkLoss::default(),
            "a record of an older version explains nothing"
        );
        let mut text = Record::head_line(record.run, &record.owner, &record.about, &loss);
        text.extend(Record::unmarked_line(7));
        let record = Record::parse(&text, id()).unwrap();
        assert_eq!((record.mark_loss, record.unmarked), (loss, vec![7]));
    }

    #[test]
    fn what_is_not_a_record_says_why() {
        assert_eq!(parse(""), Err(Corrupt::Empty));
        assert_eq!(parse(HEAD), Err(Corrupt::Malformed), "no line end");
        assert_eq!(parse(&format!("{}\n", &HEAD[..90])), Err(Corrupt::Malformed));
        let with = |from: &str, to: &str| parse(&format!("{}\n", HEAD.replace(from, to)));
        assert_eq!(with("s59m65f", "s59m65g"), Err(Corrupt::OtherRun));
        for (from, to) in [
            ("s59m65f", "S59M65F"),
            ("\"format\":1", "\"format\":2"),
            ("4711", "0"),
            ("4711", "-1"),
            ("4711", "4294967295"),
            ("0a1b2c3d-", ""),
            ("0a1b2c3d", "0A1B2C3D"),
            ("\"owner\"", "\"owned\""),
        ] {
            assert_eq!(with(from, to), Err(Corrupt::Malformed), "{from} {to}");
        }
        assert!(with("\"node\":\"app@host\",", "\"later\":1,").is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Record::parse(&text, id());
        }

        #[test]
        fn no_damage_to_a_record_panics(position in 0..HEAD.len(), byte: u8, end in 0..HEAD.len()) {
            let mut text = format!("{HEAD}\n").into_bytes();
            text[position] = byte;
            let _ = Record::parse(&text, id());
            let _ = Record::parse(&text[..end], id());
        }

        #[test]
        fn any_command_round_trips(
            worker in proptest::option::of(1u16..32767), flag in ".{0,20}",
            command in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..6),
            at_ticks in proptest::option::of(any::<u64>()),
        ) {
            let command = RecordedCommand { worker, flag, command, at_ticks };
            let mut text = format!("{HEAD}\n").into_bytes();
            text.extend(command.line());
            prop_assert_eq!(Record::parse(&text, id()).unwrap().commands, vec![command]);
        }
    }
}
