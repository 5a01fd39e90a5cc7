//! Amounts as Kubernetes writes them.

/// `250m`, `2`, `64Mi` or `1Gi` as thousandths; none for any other suffix.
pub(crate) fn milli(text: &str) -> Option<u64> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor = match suffix {
        "m" => 1,
        "" => 1_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// `5s`, `2m`, `1h` or `3d` as seconds; none for anything else.
pub(crate) fn seconds(text: &str) -> Option<u64> {
    pointsman_config::parse_duration(text).ok().map(|duration| duration.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_compare_whatever_their_suffix() {
        assert_eq!(milli("250m"), Some(250));
        assert_eq!(milli("2"), Some(2_000));
        assert!(milli("1Gi") > milli("1000Mi"));
        assert_eq!(milli("1.5"), None);
        assert_eq!(milli("Mi"), None);
    }
}
