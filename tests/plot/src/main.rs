// SPDX-License-Identifier: GPL-2.0

//! Draws the results of `ksm_v_bench`: reads points ("plot scanner x y" in each line) from
//! standard input and writes one picture for each plot into a directory.

mod axis;

use axis::Axis;
use axis::Drawn;
use axis::Scale;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use plotters::style::text_anchor::Pos;
use plotters::style::text_anchor::VPos;
use std::error::Error;
use std::io::BufRead;
use std::path::Path;

/// A picture.
struct Plot {
    /// The ID of its points.
    name: &'static str,
    title: &'static str,
    x: Axis,
    y: Axis,
    labels: Labels,
}

/// What is written at points.
enum Labels {
    /// At the first point that has this part of the largest y: its x.
    First(f64),
    /// At each point: its y. For a scanner without a point at the largest x, the reason.
    All { missing: &'static str },
}

const PLOTS: &[Plot] = &[
    Plot {
        name: "convergence",
        title: "256 MiB, each content 4 times: memory saved, over the scanner's CPU time",
        x: Axis {
            title: "million instructions of the scanner's thread",
            scale: Scale::Linear,
        },
        y: Axis {
            title: "MiB saved",
            scale: Scale::Linear,
        },
        labels: Labels::First(0.95),
    },
    Plot {
        name: "cost",
        title: "Pages that all differ: cost of looking at one again",
        x: Axis {
            title: "MiB of memory",
            scale: Scale::Logarithmic(2.0),
        },
        y: Axis {
            title: "instructions per page",
            scale: Scale::Logarithmic(10.0),
        },
        labels: Labels::All {
            missing: "not measured: takes too long",
        },
    },
];

/// The scanners, and the colours of their lines.
const SCANNERS: [(&str, RGBColor); 2] = [
    ("ksmd", RGBColor(0xd9, 0x5f, 0x02)),
    ("ksm_v", RGBColor(0x1b, 0x6f, 0xa8)),
];

/// Size of a picture, in pixels.
const SIZE: (u32, u32) = (820, 420);
/// Size of a label, in pixels.
const LABEL: i32 = 14;
/// Where a label is, from its place, in pixels.
const ABOVE: (i32, i32) = (0, -8);

/// A point, and its scanner.
struct Point {
    plot: String,
    scanner: String,
    at: (f64, f64),
}

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let directory = std::env::args()
        .nth(1)
        .ok_or("usage: ksm_v_plot DIRECTORY <POINTS")?;
    let points: Vec<Point> = std::io::stdin()
        .lock()
        .lines()
        .map(|line| parse(&line?))
        .collect::<Result<_, _>>()?;
    for plot in PLOTS {
        let path = Path::new(&directory).join(plot.name).with_extension("svg");
        let of_plot: Vec<&Point> = points
            .iter()
            .filter(|point| point.plot == plot.name)
            .collect();
        if !of_plot.is_empty() {
            plot.draw(&of_plot, &path)?;
        }
    }
    Ok(())
}

fn parse(line: &str) -> Result<Point, Failure> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [plot, scanner, x, y] = words[..] else {
        return Err(format!("'{line}' is no point: plot scanner x y").into());
    };
    Ok(Point {
        plot: plot.to_owned(),
        scanner: scanner.to_owned(),
        at: (x.parse()?, y.parse()?),
    })
}

/// The area of a plot.
type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Drawn, Drawn>>;

impl Plot {
    fn draw(&self, points: &[&Point], path: &Path) -> Result<(), Failure> {
        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let all_x = points.iter().map(|point| point.at.0);
        let all_y = points.iter().map(|point| point.at.1);
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(self.x.drawn(all_x.clone()), self.y.drawn(all_y.clone()))?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(self.x.title)
            .y_desc(self.y.title)
            .x_label_formatter(&|&place| format!("{:.0}", self.x.value(place)))
            .y_label_formatter(&|&place| format!("{:.0}", self.y.value(place)))
            .draw()?;
        let ends = (all_x.fold(0.0, f64::max), all_y.fold(0.0, f64::max));
        for (scanner, colour) in SCANNERS {
            let of_scanner = points.iter().filter(|point| point.scanner == scanner);
            let line: Vec<(f64, f64)> = of_scanner.map(|point| point.at).collect();
            self.draw_line(&mut chart, scanner, colour, &line)?;
            self.draw_labels(&mut chart, colour, &line, ends)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        root.present()?;
        Ok(())
    }

    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.x.place(x), self.y.place(y))
    }

    fn draw_line(
        &self,
        chart: &mut Chart<'_>,
        scanner: &str,
        colour: RGBColor,
        line: &[(f64, f64)],
    ) -> Result<(), Failure> {
        let places = line.iter().map(|&at| self.place(at));
        chart
            .draw_series(LineSeries::new(places, colour.stroke_width(2)))?
            .label(scanner)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour));
        Ok(())
    }

    /// Labels the points of a scanner. `ends` are the largest x and y of all scanners.
    fn draw_labels(
        &self,
        chart: &mut Chart<'_>,
        colour: RGBColor,
        line: &[(f64, f64)],
        ends: (f64, f64),
    ) -> Result<(), Failure> {
        let mut labels = Vec::new();
        match self.labels {
            Labels::First(part) => {
                let first = line.iter().find(|(_, y)| *y >= part * ends.1);
                labels.extend(first.map(|&at| Label {
                    at,
                    text: format!("{:.0}% at {:.0}", 100.0 * part, at.0),
                    end: HPos::Right,
                }));
            }
            Labels::All { missing } => {
                labels.extend(line.iter().map(|&at| Label {
                    at,
                    text: format!("{:.0}", at.1),
                    end: HPos::Center,
                }));
                let last = line.last().filter(|(x, _)| *x < ends.0);
                let missing = last.map(|&(_, y)| Label {
                    at: (ends.0, y),
                    text: missing.into(),
                    end: HPos::Right,
                });
                labels.extend(missing);
            }
        }
        let style = ("sans-serif", LABEL).into_font().color(&colour);
        chart.draw_series(labels.into_iter().map(|Label { at, text, end }| {
            let radius = if line.contains(&at) { 3 } else { 0 };
            EmptyElement::at(self.place(at))
                + Circle::new((0, 0), radius, colour.filled())
                + Text::new(text, ABOVE, style.pos(Pos::new(end, VPos::Bottom)))
        }))?;
        Ok(())
    }
}

/// A text above a place: its centre or its end is there.
struct Label {
    at: (f64, f64),
    text: String,
    end: HPos,
}
