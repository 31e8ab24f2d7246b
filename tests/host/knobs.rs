// SPDX-License-Identifier: GPL-2.0

//! Compares what is written about the knobs, in documents, tools and `sysfs/`, with their declarations
//! in `rust/engine/knobs.rs`. A failure names the file and what it lacks.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use engine::knobs;
use engine::knobs::Knob;
use engine::knobs::Values;
use engine::pace::Pacer;
use engine::promise::Floor;
use engine::EngineSettings;
use engine::KsmScanner;
use model::memory::Memory;

const ABI: &str = "Documentation/ABI/sysfs-kernel-mm-ksm_v";
const README: &str = "README.md";
const SHIPPED: &str = "package/ksm-veridian.conf";
const KSMV: &str = "tools/ksmv/knobs.py";
const DECLARATIONS: &str = "rust/engine/knobs.rs";

/// A file that can only be written. It is documented like a knob.
const MERGE_NOW: &str = "merge_now";

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn name(knob: &Knob) -> &'static str {
    knob.name.to_str().expect("names are ASCII")
}

fn is_declared(name: &str) -> bool {
    name == MERGE_NOW || knobs::ALL.iter().any(|knob| self::name(knob) == name)
}

/// The default as it is written: a number, or a word.
fn default(knob: &Knob) -> String {
    match knob.values {
        Values::Words(words) => words[knob.default as usize].to_owned(),
        Values::Range { .. } | Values::OneOf(_) | Values::Memory => knob.default.to_string(),
    }
}

/// The values of a knob that has only a few; none for a range.
fn few_values(knob: &Knob) -> Vec<String> {
    match knob.values {
        Values::Words(words) => words.iter().map(|word| word.to_string()).collect(),
        Values::OneOf(numbers) => numbers.iter().map(u32::to_string).collect(),
        Values::Range { .. } | Values::Memory => Vec::new(),
    }
}

/// The phrases by which a text tells the values of a knob.
fn values(knob: &Knob) -> Vec<String> {
    match knob.values {
        Values::Range { least, most, unit } => vec![format!("{least} to {most} {unit}")],
        Values::OneOf(_) | Values::Words(_) => few_values(knob),
        Values::Memory => vec![format!("0 to {} MiB", u32::MAX), "0 to 100%".to_owned()],
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .collect()
}

/// Whether the text has the words of the phrase next to each other, whatever is between them.
fn has(text: &str, phrase: &str) -> bool {
    let phrase = words(phrase);
    words(text)
        .windows(phrase.len())
        .any(|window| window == phrase)
}

/// The complaints about a file.
struct Complaints {
    file: &'static str,
    found: Vec<String>,
}

impl Complaints {
    fn about(file: &'static str) -> Self {
        Complaints {
            file,
            found: Vec::new(),
        }
    }

    fn expect(&mut self, is_right: bool, knob: &str, missing: impl AsRef<str>) {
        if !is_right {
            let missing = missing.as_ref();
            self.found.push(format!("{}: {knob}: {missing}", self.file));
        }
    }

    /// Expects that the text, which is about this knob, tells its values.
    fn expect_values(&mut self, knob: &Knob, text: &str) {
        for phrase in values(knob) {
            let missing = format!("does not say \"{phrase}\"");
            self.expect(has(text, &phrase), name(knob), missing);
        }
    }

    fn expect_declared(&mut self, name: &str) {
        let missing = format!("is not declared in {DECLARATIONS}");
        self.expect(is_declared(name), name, missing);
    }

    /// Fails with all complaints.
    fn expect_none(self) {
        assert!(self.found.is_empty(), "\n{}\n", self.found.join("\n"));
    }
}

#[test]
fn all_declarations_are_listed() {
    let declared = read(DECLARATIONS).matches(": Knob = Knob {").count();
    assert_eq!(
        declared,
        knobs::ALL.len(),
        "{DECLARATIONS}: the knobs declared, and those in ALL"
    );
    for knob in knobs::ALL {
        let written = default(&knob);
        let is_accepted = match knob.values {
            Values::Memory => Floor::parse(written.as_bytes()) == Some(Floor::OFF),
            _ => knob.parse(written.as_bytes()) == Some(knob.default),
        };
        assert!(is_accepted, "{DECLARATIONS}: {}", name(&knob));
    }
}

#[test]
fn sysfs_has_a_file_for_every_knob() {
    let mut sources = String::new();
    for file in fs::read_dir(path("sysfs")).expect("sysfs/").flatten() {
        sources += &fs::read_to_string(file.path()).expect("a source file");
    }
    let mut complaints = Complaints::about("sysfs/");
    for knob in &knobs::ALL {
        let declaration = format!("knobs::{},", name(knob).to_uppercase());
        let missing = format!("no file is made of {declaration}");
        complaints.expect(sources.contains(&declaration), name(knob), missing);
    }
    complaints.expect_none();
}

#[test]
fn abi_document_describes_every_knob() {
    let text = read(ABI);
    let entries = text.split("What:\t\t/sys/kernel/mm/ksm_v/");
    let entries: Vec<_> = entries.filter_map(|entry| entry.split_once('\n')).collect();
    let mut complaints = Complaints::about(ABI);
    for knob in &knobs::ALL {
        let entry = entries.iter().find(|entry| entry.0 == name(knob));
        let Some((_, entry)) = entry else {
            complaints.expect(false, name(knob), "has no entry");
            continue;
        };
        complaints.expect(has(entry, "RW"), name(knob), "is not (RW)");
        complaints.expect_values(knob, entry);
        let default = default(knob);
        let is_told =
            has(entry, &format!("Default {default}")) || has(entry, &format!("{default} default"));
        let missing = format!("does not say \"Default {default}\" or \"{default} (default)\"");
        complaints.expect(is_told, name(knob), missing);
    }
    let writable = entries.iter().filter(|entry| has(entry.1, "RW"));
    writable.for_each(|entry| complaints.expect_declared(entry.0));
    complaints.expect_none();
}

#[test]
fn readme_lists_every_knob() {
    let text = read(README);
    let mut complaints = Complaints::about(README);
    for knob in &knobs::ALL {
        let default = match knob.values {
            Values::Words(_) => format!("`{}`", default(knob)),
            Values::Range { .. } | Values::OneOf(_) | Values::Memory => default(knob),
        };
        let start = format!("| `{}` | {default} |", name(knob));
        let row = text.lines().find(|line| line.starts_with(&start));
        let missing = format!("no row begins with \"{start}\"");
        complaints.expect(row.is_some(), name(knob), missing);
        for word in row.map_or(&[][..], |_| knob.words()) {
            let missing = format!("the row does not say `{word}`");
            let is_told = row.is_some_and(|row| row.contains(&format!("`{word}`")));
            complaints.expect(is_told, name(knob), missing);
        }
    }
    complaints.expect_none();
}

#[test]
fn shipped_settings_have_every_knob() {
    let text = read(SHIPPED);
    let lines: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once(" = "))
        // A preset is no knob: it stands for the values of some.
        .filter(|&(key, _)| !key.contains(' ') && key != "preset")
        .collect();
    let mut complaints = Complaints::about(SHIPPED);
    for knob in &knobs::ALL {
        let default = default(knob);
        // A line in force has a value of its own.
        let is_listed = lines.iter().any(|&(key, value)| {
            let is_in_force = key == name(knob);
            let is_shown = key.strip_prefix('#') == Some(name(knob));
            is_shown && value == default
                || is_in_force && knob.parse::<u32>(value.as_bytes()).is_some()
        });
        let missing = format!("no line is \"#{} = {default}\"", name(knob));
        complaints.expect(is_listed, name(knob), missing);
    }
    for (key, _) in lines {
        complaints.expect_declared(key.trim_start_matches('#'));
    }
    complaints.expect_none();
}

#[test]
fn ksmv_knows_every_knob() {
    let text = read(KSMV);
    let mut complaints = Complaints::about(KSMV);
    for knob in &knobs::ALL {
        let default = default(knob);
        let start = format!("\"{}\": Knob(\"{default}\", \"", name(knob));
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(&start));
        let missing = format!("no line begins with {start}");
        complaints.expect(line.is_some(), name(knob), missing);
        let Some(line) = line else { continue };
        complaints.expect_values(knob, line);
        // Shells complete these.
        let end = match few_values(knob) {
            few if few.is_empty() => "\"),".to_owned(),
            few => format!("\", (\"{}\")),", few.join("\", \"")),
        };
        let missing = format!("its line does not end with {end}");
        complaints.expect(line.ends_with(&end), name(knob), missing);
    }
    let known = text.lines().filter_map(|line| line.split_once("\": Knob("));
    known.for_each(|(name, _)| complaints.expect_declared(name.trim().trim_matches('"')));
    complaints.expect_none();
}

#[test]
fn settings_begin_with_the_defaults() {
    let settings = EngineSettings::default();
    let found = [
        (knobs::SCAN_RATE, settings.scan_rate()),
        (knobs::SLEEP_MS, settings.sleep_ms()),
        (knobs::PROMOTE_AFTER, settings.promote_after().into()),
        (knobs::MAX_PAGE_SHARING, settings.max_page_sharing()),
        (knobs::MAX_INTERVAL, settings.max_interval().into()),
        (knobs::MAX_CPU, Pacer::new().max_cpu().into()),
    ];
    for (knob, value) in found {
        assert_eq!(value, knob.default, "{}", name(&knob));
    }
}

/// The smallest and the largest value of a knob whose values are numbers.
fn ends(knob: Knob) -> [u32; 2] {
    match knob.values {
        Values::Range { least, most, .. } => [least, most],
        Values::OneOf(numbers) => [numbers[0], numbers[numbers.len() - 1]],
        Values::Words(_) | Values::Memory => panic!("{}: no numbers", name(&knob)),
    }
}

#[test]
fn the_engine_takes_the_whole_range() {
    let mut scanner = KsmScanner::<Memory>::new();
    for sightings in ends(knobs::PROMOTE_AFTER) {
        scanner.set_promote_after(sightings as u8);
        assert_eq!(u32::from(scanner.promote_after()), sightings);
    }
    for mappings in ends(knobs::MAX_PAGE_SHARING) {
        scanner.set_max_page_sharing(mappings);
        assert_eq!(scanner.max_page_sharing(), mappings);
    }
    for passes in ends(knobs::MAX_INTERVAL) {
        scanner.set_max_interval(passes as u8);
        assert_eq!(u32::from(scanner.max_interval()), passes);
    }
    let mut pacer = Pacer::new();
    for percent in ends(knobs::MAX_CPU) {
        pacer.set_max_cpu(percent as u8);
        assert_eq!(u32::from(pacer.max_cpu()), percent);
    }
}
