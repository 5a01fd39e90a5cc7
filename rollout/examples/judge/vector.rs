//! One vector: a history, a sequence of ticks, and the moments at which the judge's state is asked for.

use std::collections::{BTreeMap, BTreeSet};

use pointsman_rollout::{CountRow, Counts, Judge, Params, UnitCounts, Verdict};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use thiserror::Error;

/// Why a vector cannot be judged.
#[derive(Debug, Error)]
pub(crate) enum VectorError {
    #[error("it does not have the format of vectors_public.json")]
    Format { source: serde_json::Error },
    #[error("`{name}`: `{what}` has more bad requests than requests")]
    MoreBadThanAll { name: String, what: &'static str },
    #[error("`{name}`: weight {weight} is not between 0 and 1")]
    Weight { name: String, weight: f64 },
    #[error("`{name}`: `{parameter}` must be {must}")]
    Parameter { name: String, parameter: &'static str, must: &'static str },
    #[error("`{name}`: state is expected at tick {tick}, but there are only {ticks} ticks")]
    BeyondEnd { name: String, tick: u64, ticks: u64 },
    #[error("`{name}`: the state at tick {tick} has no `{key}`")]
    UnknownKey { name: String, tick: u64, key: String },
    #[error("the state cannot be written")]
    State { source: serde_json::Error },
}

#[derive(Debug, Deserialize)]
struct Vector {
    name: String,
    #[serde(default)]
    config: Params,
    #[serde(default)]
    history: Vec<HistoryEntry>,
    ticks: Vec<TickEntry>,
    #[serde(default)]
    u_c: Option<u32>,
    #[serde(default)]
    expect: Vec<Expect>,
}

/// `[repeat, n, x]` or `[repeat, [[n, x] per unit]]`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum HistoryEntry {
    Whole(u64, u64, u64),
    PerUnit(u64, Vec<(u64, u64)>),
}

/// Weight, the canary's requests and bad ones, stable's requests and bad ones.
type RowEntry = (f64, u64, u64, u64, u64);

/// `[repeat, rows]` or `[repeat, rows, units]`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TickEntry {
    Rows(u64, Vec<RowEntry>),
    RowsAndUnits(u64, Vec<RowEntry>, Option<BTreeMap<String, (u64, u64)>>),
}

#[derive(Debug, Deserialize)]
struct Expect {
    tick: u64,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// One tick as the judge takes it.
struct Tick {
    repeat: u64,
    rows: Vec<CountRow>,
    units: Vec<UnitCounts>,
}

/// What came out: `{"name", "first_rollback", "results"}`.
///
/// # Errors
/// If the vector does not have the file's format, or asks for what does not exist.
pub(crate) fn judge(case: &Value) -> Result<Value, VectorError> {
    let vector = Vector::deserialize(case).map_err(|source| VectorError::Format { source })?;
    check_params(&vector)?;
    let mut judge = Judge::new(vector.config.clone());
    for entry in &vector.history {
        let (repeat, units) = history(&vector.name, entry)?;
        for _ in 0..repeat {
            judge.baseline_history(&units);
        }
    }
    let (first_rollback, results) = play(&mut judge, &vector)?;
    Ok(json!({ "name": vector.name, "first_rollback": first_rollback, "results": results }))
}

/// Plays the ticks; gives the first rollback and the state at the ticks asked for.
fn play(judge: &mut Judge, vector: &Vector) -> Result<(Value, Vec<Value>), VectorError> {
    let mut at_tick = BTreeMap::new();
    let wanted: BTreeSet<u64> = vector.expect.iter().map(|expect| expect.tick).collect();
    let (mut now, mut first_rollback) = (0, Value::Null);
    if wanted.contains(&now) {
        at_tick.insert(now, state(judge)?);
    }
    let names = unit_numbers(&vector.ticks);
    for entry in &vector.ticks {
        let tick = tick(&vector.name, entry, &names)?;
        for _ in 0..tick.repeat {
            now += 1;
            let verdict = judge.tick(&tick.rows, &tick.units, vector.u_c);
            if let (Verdict::Rollback(regression), Value::Null) = (verdict, &first_rollback) {
                first_rollback = json!([now, regression.as_str()]);
            }
            if wanted.contains(&now) {
                at_tick.insert(now, state(judge)?);
            }
        }
    }
    let results = vector.expect.iter().map(|expect| pick(vector, expect, &at_tick, now)).collect::<Result<_, _>>()?;
    Ok((first_rollback, results))
}

fn state(judge: &Judge) -> Result<Value, VectorError> {
    serde_json::to_value(judge.evidence()).map_err(|source| VectorError::State { source })
}

/// The keys of one expected state, and its time.
fn pick(vector: &Vector, expect: &Expect, at_tick: &BTreeMap<u64, Value>, ticks: u64) -> Result<Value, VectorError> {
    let tick = expect.tick;
    let beyond = || VectorError::BeyondEnd { name: vector.name.clone(), tick, ticks };
    let state = at_tick.get(&tick).ok_or_else(beyond)?;
    let mut picked = Map::new();
    picked.insert("t".to_owned(), state.get("t").cloned().unwrap_or_default());
    for key in expect.others.keys() {
        let unknown = || VectorError::UnknownKey { name: vector.name.clone(), tick, key: key.clone() };
        picked.insert(key.clone(), state.get(key).cloned().ok_or_else(unknown)?);
    }
    picked.insert("tick".to_owned(), json!(tick));
    Ok(Value::Object(picked))
}

fn counts(name: &str, what: &'static str, (requests, bad): (u64, u64)) -> Result<Counts, VectorError> {
    if bad > requests {
        return Err(VectorError::MoreBadThanAll { name: name.to_owned(), what });
    }
    Ok(Counts { requests, bad })
}

fn history(name: &str, entry: &HistoryEntry) -> Result<(u64, Vec<Counts>), VectorError> {
    match entry {
        HistoryEntry::Whole(repeat, n, x) => Ok((*repeat, vec![counts(name, "history", (*n, *x))?])),
        HistoryEntry::PerUnit(repeat, units) => {
            let units = units.iter().map(|&unit| counts(name, "history", unit)).collect::<Result<_, _>>()?;
            Ok((*repeat, units))
        }
    }
}

/// Every unit's name, with a number for it.
fn unit_numbers(ticks: &[TickEntry]) -> BTreeMap<&str, u64> {
    let names: BTreeSet<&str> =
        ticks.iter().flat_map(|entry| entry.units().into_iter().flatten()).map(|(unit, _)| unit.as_str()).collect();
    names.into_iter().zip(0..).collect()
}

impl TickEntry {
    fn units(&self) -> Option<&BTreeMap<String, (u64, u64)>> {
        match self {
            Self::Rows(..) => None,
            Self::RowsAndUnits(_, _, units) => units.as_ref(),
        }
    }
}

fn tick(name: &str, entry: &TickEntry, numbers: &BTreeMap<&str, u64>) -> Result<Tick, VectorError> {
    let (TickEntry::Rows(repeat, rows) | TickEntry::RowsAndUnits(repeat, rows, _)) = entry;
    let rows = rows.iter().map(|row| count_row(name, row)).collect::<Result<_, _>>()?;
    let unit = |(unit, &both): (&String, &(u64, u64))| {
        let unit = numbers.get(unit.as_str()).copied().unwrap_or_default();
        Ok(UnitCounts { unit, counts: counts(name, "units", both)? })
    };
    let units = entry.units().into_iter().flatten().map(unit).collect::<Result<_, _>>()?;
    Ok(Tick { repeat: *repeat, rows, units })
}

fn count_row(name: &str, &(weight, n_c, x_c, n_b, x_b): &RowEntry) -> Result<CountRow, VectorError> {
    if !(0.0..=1.0).contains(&weight) {
        return Err(VectorError::Weight { name: name.to_owned(), weight });
    }
    Ok(CountRow { weight, canary: counts(name, "ticks", (n_c, x_c))?, stable: counts(name, "ticks", (n_b, x_b))? })
}

/// Parameters under which the formulas have no value.
fn check_params(vector: &Vector) -> Result<(), VectorError> {
    let params = &vector.config;
    let inside = |rate: f64| 0.0 < rate && rate < 1.0;
    let rules = [
        ("tick_ms", "at least 1", params.tick_ms > 0),
        ("ticks_per_slice", "at least 1", params.ticks_per_slice > 0),
        ("horizon_s", "more than 0", params.horizon_s > 0.0),
        ("rho0", "more than 0", params.rho0 > 0.0),
        ("rho0_hold", "more than 0", params.rho0_hold > 0.0),
        ("rho_grid", "numbers more than 0", params.rho_grid.iter().all(|&ratio| ratio > 0.0)),
        ("fast_p0", "between 0 and 1", inside(params.fast_p0)),
        ("fast_p1", "numbers between 0 and 1", params.fast_p1.iter().all(|&rate| inside(rate))),
        ("alpha_fast", "more than 0", params.alpha_fast > 0.0),
        ("alpha_slow", "more than 0", params.alpha_slow > 0.0),
        ("alpha_promote", "more than 0", params.alpha_promote > 0.0),
        ("cs_alpha", "more than 0", params.cs_alpha > 0.0),
        ("prior_n", "more than 0", params.prior_n > 0.0),
    ];
    match rules.into_iter().find(|(_, _, kept)| !kept) {
        Some((parameter, must, _)) => Err(VectorError::Parameter { name: vector.name.clone(), parameter, must }),
        None => Ok(()),
    }
}
