//! What VMs answer about workers: `find` lists those of a name, `stop` says what became of each.
//!
//! An answer is taken whole or not at all. One line that is none makes the VM mute, because what
//! is left of the answer could say that all is well.

use super::client::{Line, Silence};
use crate::exit::{Exit, Failure};
use crate::render::text::harmless;
use leash_tag::RunId;
use serde::de::IntoDeserializer as _;
use serde::de::value::Error as Unknown;
use serde::{Deserialize, Serialize};

/// The answers of all VMs that were asked.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Answers {
    /// The runs whose VM answered.
    pub(crate) runs: Vec<RunWorkers>,
    /// The runs whose VM did not.
    pub(crate) mute: Vec<Mute>,
}

/// The workers that a VM named.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RunWorkers {
    /// The run.
    pub(crate) run_id: String,
    /// In the order of the answer.
    pub(crate) workers: Vec<Worker>,
}

/// A living run whose VM gave no answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Mute {
    /// The run.
    pub(crate) run_id: String,
    /// The reason.
    pub(crate) why: Silence,
}

/// A worker, and what became of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Worker {
    /// The worker's number.
    pub(crate) worker: u16,
    /// Such as `worker` or `port`.
    pub(crate) kind: String,
    /// The program, while it runs.
    pub(crate) os_pid: Option<u32>,
    /// The registered name, or the command.
    pub(crate) label: String,
    /// The group, as Elixir writes it.
    pub(crate) group: Option<String>,
    /// Absent before the worker was told to end.
    pub(crate) result: Option<Outcome>,
    /// How the program ended, in words.
    pub(crate) how: Option<String>,
    /// What is left of its tree.
    pub(crate) survivors: Vec<Survivor>,
}

/// The result for a worker that was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// Nothing of its tree is left, and the VM saw how it ended.
    Ended,
    /// Nothing of its tree is left.
    Gone,
    /// Something of its tree is left, or may be.
    Survived,
    /// The worker was still ending when the time was over.
    Ending,
}

/// A process that is left of a worker's tree.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Survivor {
    /// The process.
    pub(crate) pid: u32,
    /// The reason, as in a report.
    pub(crate) why: String,
}

impl Answers {
    /// Sorts the answers into VMs that answered and VMs that did not.
    ///
    /// # Errors
    ///
    /// If a VM rejects the request, the whole command fails.
    pub(crate) fn sort(
        answers: Vec<(RunId, Result<Vec<Line>, Silence>)>,
    ) -> Result<Self, Failure> {
        let mut sorted = Self::default();
        for (run, answer) in answers {
            let lines = answer.as_deref().unwrap_or_default();
            let error =
                lines.iter().find(|line| line.first().is_some_and(|word| word == "error"));
            if let Some(line) = error {
                let why = line.get(1).map_or("", String::as_str);
                return Err(Failure::new(Exit::Left, format!("{run}: {}", harmless(why))));
            }
            let parse = |lines: Vec<Line>| lines.iter().map(Worker::parse).collect::<Option<_>>();
            let run_id = run.to_string();
            match answer.and_then(|lines| parse(lines).ok_or(Silence::Garbage)) {
                Ok(workers) => sorted.runs.push(RunWorkers { run_id, workers }),
                Err(why) => sorted.mute.push(Mute { run_id, why }),
            }
        }
        Ok(sorted)
    }

    /// Returns the workers of all runs, each with its run's id.
    pub(crate) fn workers(&self) -> impl Iterator<Item = (&str, &Worker)> {
        self.runs.iter().flat_map(|run| run.workers.iter().map(|one| (run.run_id.as_str(), one)))
    }
}

impl Worker {
    /// Parses a line of an answer.
    pub(crate) fn parse(line: &Line) -> Option<Self> {
        let field = |index: usize| line.get(index).map(String::as_str);
        let given = |index: usize| field(index).filter(|text| !text.is_empty());
        if field(0)? != "worker" {
            return None;
        }
        let outcome = |text: &str| {
            let name: serde::de::value::StrDeserializer<'_, Unknown> = text.into_deserializer();
            Outcome::deserialize(name)
        };
        let survivors = given(8).unwrap_or_default().split_terminator(',').map(Survivor::parse);
        Some(Self {
            worker: field(1)?.parse().ok()?,
            kind: field(2)?.to_owned(),
            os_pid: given(3).map(str::parse).transpose().ok()?,
            label: field(4)?.to_owned(),
            group: given(5).map(str::to_owned),
            result: given(6).map(outcome).transpose().ok()?,
            how: given(7).map(str::to_owned),
            survivors: survivors.collect::<Option<_>>()?,
        })
    }

    /// Returns whether nothing of its tree is left.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.result, Some(Outcome::Ended | Outcome::Gone))
    }
}

impl Survivor {
    /// Parses `4711:eperm`.
    fn parse(text: &str) -> Option<Self> {
        let (pid, why) = text.split_once(':')?;
        Some(Self { pid: pid.parse().ok()?, why: why.to_owned() })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns the fields of a line, which stand between bars.
    pub(crate) fn fields(text: &str) -> Line {
        text.split('|').map(str::to_owned).collect()
    }

    fn run_id(text: &str) -> RunId {
        RunId::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn an_answer_is_taken_whole_or_not_at_all() {
        let found = Worker::parse(&fields("worker|3|worker|4711|MyApp.W|:pool")).unwrap();
        assert_eq!((found.worker, found.os_pid, found.result), (3, Some(4711), None));
        let left =
            Worker::parse(&fields("worker|3|port||sh||survived||12:eperm,13:uninterruptible"))
                .unwrap();
        assert_eq!((left.os_pid, left.group.as_deref(), left.survivors.len()), (None, None, 2));
        for bad in [
            "",
            "x",
            "worker",
            "worker|0x|w|1|l|g",
            "worker|1|w|x|l|g",
            "worker|1|w|1|l|g|slept",
            "worker|1|w|1|l|g|gone||7",
        ] {
            assert_eq!(Worker::parse(&fields(bad)), None, "{bad}");
        }
        let answers = vec![
            (run_id("s59m65f"), Ok(vec![fields("worker|1|worker|9|a|"), fields("dance")])),
            (run_id("s59m65g"), Err(Silence::NoAnswer)),
        ];
        let Answers { runs, mute } = Answers::sort(answers).unwrap();
        assert!(runs.is_empty());
        assert_eq!(
            mute.iter().map(|run| run.why).collect::<Vec<_>>(),
            [Silence::Garbage, Silence::NoAnswer]
        );
        let failure =
            Answers::sort(vec![(run_id("s59m65f"), Ok(vec![fields("error|no\u{1b}")]))])
                .unwrap_err();
        assert_eq!(failure.message, "s59m65f: no\u{fffd}");
    }
}
