//! Formats of strings that are enforced, as regular expressions. Every other format is an annotation.

/// The expression of a format: what it matches is valid, though it may match less than all that is.
pub(super) fn pattern(name: &str) -> Option<String> {
    const YEAR_LEAP: &str = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)";
    const TIME: &str = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
    const LABEL: &str = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?";
    const IPV4: &str = r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    let date = || {
        format!(
            "(?:[0-9]{{4}}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|\
             02-(?:0[1-9]|1[0-9]|2[0-8]))|{YEAR_LEAP}-02-29)"
        )
    };
    // At most three labels keep a host name within its 253 characters.
    let hostname = || format!(r"{LABEL}(?:\.{LABEL}){{0,2}}");
    let body = match name {
        "date" => date(),
        "time" => TIME.to_owned(),
        "date-time" => format!("{}[tT]{TIME}", date()),
        "duration" => {
            let (hms, days) = (
                "(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)",
                "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)",
            );
            format!("P(?:{days}(?:T{hms})?|T{hms}|[0-9]+W)")
        }
        "email" => {
            let atom = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,20}";
            format!(r"{atom}(?:\.{atom}){{0,2}}@{}", hostname())
        }
        "hostname" => hostname(),
        "ipv4" => IPV4.to_owned(),
        "ipv6" => {
            let h = "[0-9a-fA-F]{1,4}";
            let mut forms = vec![format!("(?:{h}:){{7}}{h}"), "::".to_owned()];
            for before in 0..7_usize {
                let after = 6 - before;
                let head =
                    if before == 0 { "::".to_owned() } else { format!("{h}(?::{h}){{{}}}::", before - 1) };
                forms.push(if after == 0 {
                    head
                } else {
                    format!("{head}(?:{h}(?::{h}){{0,{}}})?", after - 1)
                });
            }
            format!("(?:{})", forms.join("|"))
        }
        "uuid" => "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}".to_owned(),
        "uri" => {
            let c = "(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9a-fA-F]{2})";
            format!(
                r"[a-zA-Z][a-zA-Z0-9+.-]*:(?://{}(?::[0-9]{{1,4}})?)?(?:/{c}+)*/?(?:\?{c}*)?(?:#{c}*)?",
                hostname()
            )
        }
        _ => return None,
    };
    Some(format!("^(?:{body})$"))
}
