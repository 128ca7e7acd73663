//! A picture of all days, as SVG without anything from outside.

use std::fmt::Write as _;

use super::trend::{Day, Report};

const WIDTH: f64 = 900.0;
const PANEL: f64 = 190.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 46.0;
const GAP: f64 = 44.0;

/// One line of a panel.
struct Series {
    name: &'static str,
    colour: &'static str,
    of: fn(&Day) -> f64,
}

struct Panel {
    title: &'static str,
    unit: &'static str,
    series: &'static [Series],
}

const MIB: f64 = 1_048_576.0;

const PANELS: [Panel; 3] = [
    Panel {
        title: "File",
        unit: "MiB",
        series: &[
            Series { name: "file", colour: "#1b6ca8", of: |d| d.file_bytes as f64 / MIB },
            Series { name: "log files", colour: "#8a8a8a", of: |d| d.log_bytes as f64 / MIB },
            Series { name: "what the app has in it", colour: "#2e8b57", of: |d| d.live_bytes as f64 / MIB },
            Series { name: "history", colour: "#c77c11", of: |d| d.history_bytes as f64 / MIB },
        ],
    },
    Panel {
        title: "Opening",
        unit: "KiB read",
        series: &[
            Series {
                name: "mean",
                colour: "#1b6ca8",
                of: |d| d.open_bytes_all as f64 / d.opens.max(1) as f64 / 1024.0,
            },
            Series { name: "most, after a power cut", colour: "#a83232", of: |d| d.open_bytes_max as f64 / 1024.0 },
        ],
    },
    Panel {
        title: "Memory",
        unit: "MiB",
        series: &[Series { name: "at the worst moment", colour: "#6b3fa0", of: |d| d.memory_max as f64 / MIB }],
    },
];

/// Draws the worst of every so many days.
pub fn svg(report: &Report, every: usize) -> String {
    let days = report.every(every);
    let height = TOP + PANELS.len() as f64 * (PANEL + GAP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let last = report.days.last().map_or(0, |day| day.day + 1);
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{} of an app's use, 50 openings a day (the worst of every {every} \
         days; seed {})</text>",
        if last >= 365 { format!("{:.1} years", last as f64 / 365.0) } else { format!("{last} days") },
        report.seed
    );
    for (i, panel) in PANELS.iter().enumerate() {
        draw(&mut out, panel, &days, TOP + i as f64 * (PANEL + GAP), last.max(1) as f64);
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, panel: &Panel, days: &[Day], top: f64, last: f64) {
    let values = panel.series.iter().flat_map(|series| days.iter().map(series.of));
    let most = round_up(values.fold(0.0, f64::max));
    let (right, bottom) = (WIDTH - RIGHT, top + PANEL);
    let x = |day: u64| LEFT + (right - LEFT) * day as f64 / last;
    let y = |value: f64| bottom - PANEL * value / most;
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{:.1}\">{} ({})</text>", top - 6.0, panel.title, panel.unit);
    for step in 0..=4 {
        let value = most * f64::from(step) / 4.0;
        let at = y(value);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/><text x=\"{:.1}\" \
             y=\"{:.1}\" text-anchor=\"end\" fill=\"#555555\">{value}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    let years = (last / 365.0).floor() as u64;
    for year in 1..=years {
        let at = x(year * 365);
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" y1=\"{top:.1}\" x2=\"{at:.1}\" y2=\"{bottom:.1}\" stroke=\"#eeeeee\"/><text \
             x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555555\">{year} y</text>",
            bottom + 16.0
        );
    }
    for (i, series) in panel.series.iter().enumerate() {
        let points: Vec<String> =
            days.iter().map(|day| format!("{:.1},{:.1}", x(day.day), y((series.of)(day)))).collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.3\" points=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             fill=\"{}\">{}</text>",
            series.colour,
            points.join(" "),
            right + 8.0,
            top + 12.0 + 16.0 * i as f64,
            series.colour,
            series.name
        );
    }
}

/// Returns the next of 1, 2, 4, 6, 8 times a power of ten, so that quarters of it read well.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 6.0, 8.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= value).unwrap_or(value)
}
