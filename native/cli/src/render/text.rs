//! Numbers and names in readable form.
//!
//! Whatever another program wrote goes through [`harmless`] before it is shown: names of workers,
//! records, answers of VMs. Commands went through the same in the core.

use leash_core::Verdict;
use serde::Serialize;

/// Returns a unit variant as JSON spells it: one name for machines and people.
pub(crate) fn name(variant: impl Serialize) -> String {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(name)) => name,
        _ => "?".to_owned(),
    }
}

/// Returns a verdict as a column shows it.
pub(crate) fn verdict(verdict: Verdict) -> String {
    name(verdict).replace('_', " ")
}

/// Returns an age in its two largest units.
pub(crate) fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// Returns a size in the largest unit of 1024 that leaves at least one.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["B", "K", "M", "G", "T"];
    let (mut number, mut unit) = (bytes, 0);
    while number >= 1024 && unit + 1 < units.len() {
        number /= 1024;
        unit += 1;
    }
    format!("{number}{}", units.get(unit).unwrap_or(&""))
}

/// Returns text from another program with its control characters replaced, so that it cannot
/// control the terminal.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

/// Returns a value as text, or a dash.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Returns a number with its noun: `1 process`, `2 processes`.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_fit_a_column() {
        let ages =
            [0, 59_999, 60_000, 3_599_000, 3_600_000, 86_399_000, 86_400_000, 400 * 86_400_000];
        let shown = ["0s", "59s", "1m00s", "59m59s", "1h00m", "23h59m", "1d00h", "400d00h"];
        assert_eq!(ages.map(age), shown);
        let sizes = [0, 1023, 1024, 25 << 20, 3 << 30, 1 << 60];
        assert_eq!(sizes.map(size), ["0B", "1023B", "1K", "25M", "3G", "1048576T"]);
    }

    #[test]
    fn names_are_those_of_the_json() {
        assert_eq!(verdict(Verdict::OwnOuterRun), "own outer run");
        assert_eq!(name(leash_core::Lock::Held), "held");
    }

    #[test]
    fn nothing_controls_the_terminal() {
        assert_eq!(
            harmless("a\x1b[2Jb\n\u{9b}c\u{7f}"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}"
        );
    }
}
