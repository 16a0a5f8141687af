//! Rows of figures, kept as a text with tabs, and what is worse in one table than in another.
//!
//! | rule | broken where |
//! |---|---|
//! | no spills | registers are spilled, whatever the table says |
//! | 16-byte loads | a shader reads `array<vec4` and has no 16-byte load |
//! | integer dot products | it has `dot4I8Packed` or `dot4U8Packed`, the family v_dot4, and the program none |
//! | matrix products | it has `coopMultiplyAdd`, the family v_wmma, and the program none |
//! | lost | the table has 16-byte loads, v_dot4 or v_wmma, and the program none |
//! | same shaders | the table has others |
//! | 10 % | inverse throughput is more than a tenth above the table's, under the same Mesa; under another it is only told |

use super::radv::Cost;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::Path;

/// More than this times the table's inverse throughput is worse.
const TOLERANCE: f64 = 1.1;

/// Names of the columns behind shader and family.
const COLUMNS: [&str; 8] =
    ["vgprs", "spilled", "lds", "waves", "inverse_throughput", "wide_loads", "dot4", "wmma"];
const SPILLED: usize = 1;
const INVERSE_THROUGHPUT: usize = 4;
const WIDE_LOADS: usize = 5;
const DOT4: usize = 6;
const WMMA: usize = 7;

/// Families with matrix instructions, and those whose integer dot products are told by `v_dot4`. Source: Mesa `src/amd/compiler`.
const WITH_WMMA: [&str; 3] = ["navi31", "gfx1151", "gfx1201"];
const WITH_DOT4: [&str; 4] = ["navi21", "navi31", "gfx1151", "gfx1201"];

/// One shader on one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub shader: String,
    pub family: String,
    figures: [u64; COLUMNS.len()],
}

impl Row {
    pub fn new(shader: &str, family: &str, cost: &Cost) -> Self {
        let of = |name: &str| cost.statistics.get(name).copied().unwrap_or(0);
        let lines = |words: &[&str]| {
            let has = |line: &&str| words.iter().any(|word| line.contains(word));
            cost.isa.lines().filter(has).count() as u64
        };
        let figures = [
            of("VGPRs"),
            of("Spilled VGPRs") + of("Spilled SGPRs"),
            of("LDS size"),
            of("Subgroups per SIMD"),
            of("Inverse Throughput"),
            lines(&["load_b128", "load_dwordx4"]),
            lines(&["v_dot4"]),
            lines(&["v_wmma"]),
        ];
        Self { shader: shader.into(), family: family.into(), figures }
    }

    fn parse(line: &str) -> Result<Self, String> {
        let wrong = || format!("no row of a table: '{line}'");
        let mut fields = line.split('\t');
        let (Some(shader), Some(family)) = (fields.next(), fields.next()) else { return Err(wrong()) };
        let figures: Vec<u64> =
            fields.map(|f| f.trim().parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
        let figures = figures.try_into().map_err(|_| wrong())?;
        Ok(Self { shader: shader.into(), family: family.trim().into(), figures })
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t{}", self.shader, self.family)?;
        self.figures.iter().try_for_each(|figure| write!(f, "\t{figure}"))
    }
}

/// Rows, and the driver they are from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub mesa: String,
    pub rows: Vec<Row>,
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "mesa\t{}", self.mesa)?;
        writeln!(f, "shader\tfamily\t{}", COLUMNS.join("\t"))?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}

impl Table {
    /// A table as it is kept.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        let mesa =
            lines.next().and_then(|line| line.strip_prefix("mesa\t")).ok_or("no line 'mesa' at its start")?;
        let head = format!("shader\tfamily\t{}", COLUMNS.join("\t"));
        if lines.next() != Some(&head) {
            return Err(format!("other columns than '{}'", head.replace('\t', " ")));
        }
        let rows = lines.map(Row::parse).collect::<Result<_, _>>()?;
        Ok(Self { mesa: mesa.into(), rows })
    }

    /// Adds what a process printed: the driver, then rows, with anything between them.
    pub fn add(&mut self, output: &str) -> Result<(), String> {
        for line in output.lines() {
            if let Some(mesa) = line.strip_prefix("mesa\t") {
                self.mesa = mesa.into();
            } else if let Ok(row) = Row::parse(line) {
                self.rows.push(row);
            }
        }
        if self.mesa.is_empty() { Err("the driver does not say its version".into()) } else { Ok(()) }
    }

    pub fn sort(&mut self) {
        self.rows.sort();
    }

    /// What breaks the rules that need no other table. `sources` are the shaders' names and files.
    pub fn rules(&self, sources: &[(&str, &Path)]) -> Result<Vec<String>, String> {
        let mut texts = BTreeMap::new();
        for (name, path) in sources {
            texts.insert(
                *name,
                std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?,
            );
        }
        let of = |row: &Row| texts.get(row.shader.as_str()).map_or("", String::as_str);
        Ok(self.rows.iter().flat_map(|row| broken(row, of(row))).collect())
    }

    /// What is worse here than in `before`, and what is only to be told.
    pub fn compare(&self, before: &Self, families: &[&str]) -> (Vec<String>, Vec<String>) {
        let key = |row: &Row| (row.shader.clone(), row.family.clone());
        let then: BTreeMap<_, &Row> = before
            .rows
            .iter()
            .filter(|r| families.contains(&r.family.as_str()))
            .map(|r| (key(r), r))
            .collect();
        let mut left = then.clone();
        let (mut problems, mut notes, mut faster) = (Vec::new(), Vec::new(), 0);
        let stale = self.mesa != before.mesa;
        for row in &self.rows {
            let Some(old) = left.remove(&key(row)) else {
                problems.push(format!("{} on {}: not in the table; write it again", row.shader, row.family));
                continue;
            };
            for column in [WIDE_LOADS, DOT4, WMMA] {
                if old.figures[column] > 0 && row.figures[column] == 0 {
                    problems.push(format!("{} on {}: lost its {}", row.shader, row.family, COLUMNS[column]));
                }
            }
            let (was, is) = (old.figures[INVERSE_THROUGHPUT] as f64, row.figures[INVERSE_THROUGHPUT] as f64);
            let line = || {
                let percent = (is / was - 1.0) * 100.0;
                format!(
                    "{} on {}: inverse throughput {was} -> {is} ({percent:+.0} %)",
                    row.shader, row.family
                )
            };
            match is > was * TOLERANCE {
                true if stale => notes.push(line()),
                true => problems.push(line()),
                false => faster += usize::from(is * TOLERANCE < was),
            }
        }
        problems.extend(
            left.keys()
                .map(|(shader, family)| format!("{shader} on {family}: only in the table; write it again")),
        );
        if stale {
            notes.push(format!(
                "inverse throughput is stale: the table is of {}, this is {}",
                before.mesa, self.mesa
            ));
        } else if faster > 0 {
            notes.push(format!(
                "{faster} rows are faster by a tenth and more; write the table again to keep it so"
            ));
        }
        (problems, notes)
    }
}

/// Whether a family has what a shader needs.
pub fn compiles(wgsl: &str, family: &str) -> bool {
    !wgsl.contains("coopMultiplyAdd") || WITH_WMMA.contains(&family)
}

/// The rules that a shader breaks by itself.
fn broken(row: &Row, wgsl: &str) -> Vec<String> {
    let family = row.family.as_str();
    let missing = |words: &[&str], column: usize| {
        words.iter().any(|word| wgsl.contains(word)) && row.figures[column] == 0
    };
    let mut found = Vec::new();
    if row.figures[SPILLED] > 0 {
        found.push(format!("{} registers are spilled", row.figures[SPILLED]));
    }
    if missing(&["array<vec4<u32>", "array<vec4u"], WIDE_LOADS) {
        found.push("reads vectors of 16 bytes, and no load is as wide".into());
    }
    if WITH_DOT4.contains(&family) && missing(&["dot4I8Packed", "dot4U8Packed"], DOT4) {
        found.push("has integer dot products, and no v_dot4".into());
    }
    if WITH_WMMA.contains(&family) && missing(&["coopMultiplyAdd"], WMMA) {
        found.push("has matrix products, and no v_wmma".into());
    }
    found.into_iter().map(|what| format!("{} on {family}: {what}", row.shader)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(figures: [u64; 8]) -> Row {
        Row { shader: "matvec/q4_0.0".into(), family: "navi31".into(), figures }
    }

    fn table(mesa: &str, figures: [u64; 8]) -> Table {
        Table { mesa: mesa.into(), rows: vec![row(figures)] }
    }

    const GOOD: [u64; 8] = [48, 0, 512, 16, 1000, 4, 2, 1];

    #[test]
    fn tables_come_back() {
        let table = table("Mesa 25.0.7", GOOD);
        assert_eq!(Table::parse(&table.to_string()), Ok(table.clone()));
        assert!(Table::parse("").is_err());
        assert!(Table::parse("mesa\tx\nshader\tfamily\tvgprs\n").is_err());
        for cut in ["\t1\n", "\n"] {
            let text = table.to_string();
            assert!(Table::parse(&text.replace("\t2\t1\n", cut)).is_err(), "{cut:?}");
        }
        let mut read = Table::default();
        read.add(
            "mesa\tMesa 25.0.7\nv_add v1, v2\nmatvec/q4_0.0\tnavi31\t48\t0\t512\t16\t1000\t4\t2\t1\n\tv_b\n",
        )
        .unwrap();
        assert_eq!(read, table);
    }

    /// (problems, notes) beside a table of GOOD.
    fn compared(mesa: &str, figures: [u64; 8]) -> (usize, usize) {
        let (problems, notes) = table(mesa, figures).compare(&table("Mesa 25.0.7", GOOD), &["navi31"]);
        (problems.len(), notes.len())
    }

    #[test]
    fn what_is_worse_is_told_and_what_is_stale_is_not_an_error() {
        let with = |column: usize, value: u64| {
            let mut figures = GOOD;
            figures[column] = value;
            figures
        };
        let (same, other) = ("Mesa 25.0.7", "Mesa 26.0.0");
        assert_eq!(compared(same, GOOD), (0, 0));
        assert_eq!(compared(same, with(4, 1100)), (0, 0));
        assert_eq!(compared(same, with(4, 1101)), (1, 0));
        assert_eq!(compared(same, with(4, 900)), (0, 1));
        assert_eq!(compared(other, with(4, 5000)), (0, 2));
        assert_eq!(compared(other, GOOD), (0, 1));
        for column in [5, 6, 7] {
            assert_eq!(compared(same, with(column, 0)), (1, 0));
            assert_eq!(compared(other, with(column, 0)), (1, 1));
            assert_eq!(compared(same, with(column, 1)), (0, 0));
        }
        let mut renamed = table(same, GOOD);
        renamed.rows[0].shader = "matvec/q4_0.1".into();
        let (problems, _) = renamed.compare(&table(same, GOOD), &["navi31"]);
        assert_eq!(problems.len(), 2);
        // A family that was not asked for is not missed.
        assert_eq!(Table::default().compare(&table("", GOOD), &["navi21"]).0, [""; 0]);
    }

    #[test]
    fn rules_that_need_no_table() {
        let with = |column: usize, value: u64| {
            let mut figures = GOOD;
            figures[column] = value;
            row(figures)
        };
        let all = "array<vec4<u32>> dot4I8Packed coopMultiplyAdd";
        assert_eq!(broken(&row(GOOD), all), [""; 0]);
        for (column, value) in [(1, 1), (5, 0), (6, 0), (7, 0)] {
            assert_eq!(broken(&with(column, value), all).len(), 1, "{column}");
            assert_eq!(broken(&with(column, value), "").len(), usize::from(column == 1), "{column}");
        }
        let vega = Row { family: "raven".into(), ..with(7, 0) };
        assert_eq!(broken(&vega, all), [""; 0]);
    }
}
