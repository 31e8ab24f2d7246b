// SPDX-License-Identifier: GPL-2.0

//! The figures of both scanners beside each other, and the goals.

use crate::work::Figure;
use std::fmt::Write;

/// What ksm_v is to need at most.
#[derive(Clone, Copy)]
enum Goal {
    /// So much.
    AtMost(f64),
    /// Such a part of what ksmd needs.
    Part(f64),
    /// So many times its own figure of that name.
    Times(f64, &'static str),
}

/// What the report says of a figure.
struct Line {
    id: &'static str,
    what: &'static str,
    goal: Goal,
}

/// All figures, in the order of the table.
const LINES: &[Line] = &[
    Line {
        id: "unique-64/first-pass",
        what: "64 MiB that all differ, first pass: instructions per page",
        goal: Goal::AtMost(600.0),
    },
    Line {
        id: "unique-64/later-passes",
        what: "the same, every later pass",
        goal: Goal::AtMost(450.0),
    },
    Line {
        id: "unique-256/later-passes",
        what: "256 MiB that all differ, every later pass: instructions per page",
        goal: Goal::AtMost(450.0),
    },
    Line {
        id: "unique-2048/later-passes",
        what: "2 GiB that all differ, every later pass: instructions per page",
        goal: Goal::Times(1.15, "unique-64/later-passes"),
    },
    Line {
        id: "processes-1000/later-passes",
        what: "1000 processes of 1 MiB that all differs, every later pass: instructions per page",
        goal: Goal::Times(1.3, "unique-64/later-passes"),
    },
    Line {
        id: "alike-64/later-passes",
        what: "64 MiB that differ in their last 96 bytes, every later pass: instructions per page",
        goal: Goal::AtMost(3000.0),
    },
    Line {
        id: "copies-256/merging",
        what: "256 MiB, 4 copies of each page: instructions per page merged away, to convergence",
        goal: Goal::AtMost(5000.0),
    },
    Line {
        id: "copies-256/passes",
        what: "the same: passes to convergence",
        goal: Goal::AtMost(2.0),
    },
    Line {
        id: "copies-256/merged",
        what: "the same, once merged: instructions per page and pass",
        goal: Goal::AtMost(120.0),
    },
    Line {
        id: "zero-64/merging",
        what: "64 MiB of zeroes: instructions per page merged away",
        goal: Goal::Part(0.25),
    },
    Line {
        id: "unique-64/index-bytes",
        what: "64 MiB that all differ: bytes of tables per page",
        goal: Goal::AtMost(16.0),
    },
];

/// A line with its numbers.
struct Row {
    line: &'static Line,
    ksmd: Option<f64>,
    ksm_v: f64,
    /// What ksm_v is to need at most, where that can be told.
    goal: Option<f64>,
}

/// The figures that were measured.
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Puts together what the two needed; a line needs a figure of ksm_v at least.
    pub fn of(ksmd: &[Figure], ksm_v: &[Figure]) -> Self {
        let rows = LINES.iter().filter_map(|line| {
            let (ksmd, ksm_v_value) = (value(ksmd, line.id), value(ksm_v, line.id)?);
            let goal = match line.goal {
                Goal::AtMost(most) => Some(most),
                Goal::Part(part) => ksmd.map(|ksmd| part * ksmd),
                Goal::Times(times, id) => value(ksm_v, id).map(|own| times * own),
            };
            Some(Row {
                line,
                ksmd,
                ksm_v: ksm_v_value,
                goal,
            })
        });
        Report {
            rows: rows.collect(),
        }
    }

    /// Whether ksm_v needed no more than ksmd of anything.
    pub fn is_never_worse(&self) -> bool {
        let is_no_worse = |row: &Row| row.ksmd.is_none_or(|ksmd| row.ksm_v <= ksmd);
        self.rows.iter().all(is_no_worse)
    }

    /// The table.
    pub fn markdown(&self) -> String {
        let mut text = "| work | ksmd | ksm_v | ksm_v / ksmd | goal |\n\
                        | --- | ---: | ---: | ---: | ---: |\n"
            .to_owned();
        for row in &self.rows {
            let percent = row.ksmd.map(|ksmd| 100.0 * row.ksm_v / ksmd);
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                row.line.what,
                row.ksmd.map_or("-".to_owned(), number),
                number(row.ksm_v),
                percent.map_or("-".to_owned(), |percent| format!("{percent:.1}%")),
                row.goal_text()
            );
        }
        text
    }

    /// An array of objects, one for each figure.
    pub fn json(&self) -> String {
        let objects: Vec<String> = self.rows.iter().map(Row::json).collect();
        format!("[\n{}\n]", objects.join(",\n"))
    }
}

impl Row {
    fn goal_text(&self) -> String {
        self.goal.map_or("-".to_owned(), |goal| {
            let verdict = if self.ksm_v <= goal { "met" } else { "missed" };
            format!("{}, {verdict}", number(goal))
        })
    }

    fn json(&self) -> String {
        let or_null = |value: Option<f64>| value.map_or("null".to_owned(), number);
        format!(
            r#"  {{"figure": "{}", "ksmd": {}, "ksm_v": {}, "goal": {}}}"#,
            self.line.id,
            or_null(self.ksmd),
            number(self.ksm_v),
            or_null(self.goal)
        )
    }
}

/// The figure of this name.
fn value(figures: &[Figure], id: &str) -> Option<f64> {
    let figure = figures.iter().find(|figure| figure.id == id)?;
    Some(figure.value)
}

/// A number with three digits that matter.
fn number(value: f64) -> String {
    if value < 100.0 && value.fract() != 0.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}
