//! Locales, and which one is used if a template does not have the requested one.

/// The longest locale that is accepted, in bytes.
const LONGEST_LOCALE: usize = 35;

/// A locale in the form in which locales are compared: `pt_BR` → `pt-br`. `None` if it is not a
/// locale (RFC 5646 §2.1, without its rarer forms).
pub(super) fn normal(given: &str) -> Option<String> {
    let locale = given.replace('_', "-").to_ascii_lowercase();
    let mut parts = locale.split('-');
    let language = parts.next().unwrap_or_default();
    let is_language =
        (2..=3).contains(&language.len()) && language.bytes().all(|b| b.is_ascii_alphabetic());
    let is_locale = is_language
        && locale.len() <= LONGEST_LOCALE
        && parts.all(|part| {
            (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
        });
    is_locale.then_some(locale)
}

/// Whether this is a locale, such as en or pt-BR.
pub fn is_locale(given: &str) -> bool {
    normal(given).is_some()
}

/// The locales to look for, in this order: the requested one, from exact to general, then the
/// default likewise.
pub(super) fn chain(asked: Option<&str>, default: &str) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for locale in asked.into_iter().chain([default]) {
        let mut rest = locale;
        loop {
            if !rest.is_empty() && !chain.iter().any(|known| known == rest) {
                chain.push(rest.to_owned());
            }
            match rest.rsplit_once('-') {
                Some((shorter, _)) => rest = shorter,
                None => break,
            }
        }
    }

    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locale_falls_back_to_its_language_and_then_to_the_default() {
        assert_eq!(chain(Some("pt-br"), "en"), ["pt-br", "pt", "en"]);
        assert_eq!(
            chain(Some("zh-hant-tw"), "en-gb"),
            ["zh-hant-tw", "zh-hant", "zh", "en-gb", "en"]
        );
        assert_eq!(chain(None, "en"), ["en"]);
        assert_eq!(chain(Some("en"), "en"), ["en"]);
    }

    #[test]
    fn what_is_no_locale_is_distinguished_from_one() {
        for (given, normal_form) in [
            ("pt_BR", "pt-br"),
            ("de", "de"),
            ("zh-Hant-TW", "zh-hant-tw"),
        ] {
            assert_eq!(normal(given).as_deref(), Some(normal_form), "{given}");
        }

        for given in [
            "",
            "x",
            "images",
            "../de",
            "de/",
            "de-",
            "de--at",
            "d1",
            "de\r\nBcc: x",
        ] {
            assert_eq!(normal(given), None, "{given}");
        }
    }
}
