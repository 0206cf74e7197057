#![no_main]

use leash_core::Record;
use leash_tag::RunId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Some(run) = RunId::parse(b"s59m65f") else { return };
    if let Ok(record) = Record::parse(text, run) {
        let mut written = Record::head_line(run, &record.owner, &record.about, &record.mark_loss);
        for command in &record.commands {
            written.extend(command.line());
        }
        assert_eq!(Record::parse(&written, run).as_ref(), Ok(&record));
    }
});
