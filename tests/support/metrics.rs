//! Values of a metrics page.

use std::str::FromStr;

/// Returns the value of a series, which is written with its labels as the page has it.
#[track_caller]
pub(crate) fn value<T: FromStr>(page: &str, series: &str) -> T {
    let found = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let text = found.unwrap_or_else(|| panic!("the page has no series {series}:\n{page}"));
    text.parse().ok().unwrap_or_else(|| panic!("{series} has the value {text:?}"))
}

/// Returns the sum of all series of a counter that have these labels.
pub(crate) fn sum(page: &str, metric: &str, labels: &[(&str, &str)]) -> u64 {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    let series = page.lines().filter(|line| {
        let rest = line.strip_prefix(metric);
        rest.is_some_and(|rest| rest.starts_with('{')) && labels.iter().all(|label| line.contains(label))
    });
    series.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}
