//! The permitted range of limits, for both listeners.

/// No larger limit is accepted.
const LARGEST_LIMIT: usize = 1_000_000;
const TOO_LARGE_LIMIT: &str = "is more than 1,000,000, which no machine has room for";
const ZERO_LIMIT: &str = "is zero, so that no connection would be accepted";

/// The keys of limits that are out of range, each with the reason: of `counts`, those that are zero
/// or too large; of `others`, those that are flagged as zero.
pub(super) fn mistakes<const COUNTS: usize, const OTHERS: usize>(
    counts: [(&'static str, usize); COUNTS],
    others: [(&'static str, bool); OTHERS],
) -> Vec<(&'static str, &'static str)> {
    let of_count = |(key, count)| match count {
        0 => Some((key, ZERO_LIMIT)),
        1..=LARGEST_LIMIT => None,
        _ => Some((key, TOO_LARGE_LIMIT)),
    };
    let of_other = |(key, is_zero)| bool::then_some(is_zero, (key, ZERO_LIMIT));

    let of_counts = counts.into_iter().filter_map(of_count);
    let of_others = others.into_iter().filter_map(of_other);
    of_counts.chain(of_others).collect()
}
