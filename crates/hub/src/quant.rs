//! Which files of a repository make up the wanted quantisation.

use crate::HubError;
use crate::reference::Wanted;

/// Tried in this order when the user names none.
const PREFERRED: [&str; 27] = [
    "Q4_K_M",
    "Q4_K_S",
    "Q4_0",
    "Q4_1",
    "IQ4_XS",
    "IQ4_NL",
    "MXFP4",
    "MXFP4_MOE",
    "Q5_K_M",
    "Q5_K_S",
    "Q6_K",
    "Q8_0",
    "Q3_K_M",
    "IQ3_M",
    "IQ3_S",
    "IQ3_XS",
    "IQ3_XXS",
    "IQ2_M",
    "IQ2_S",
    "IQ2_XS",
    "IQ2_XXS",
    "IQ1_M",
    "IQ1_S",
    "TQ2_0",
    "F16",
    "BF16",
    "F32",
];

/// A model of one or more GGUF files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GgufGroup {
    /// The quantisation as its file name tells, in upper case.
    pub(crate) label: Option<String>,
    /// In order; more than one for a split model.
    pub(crate) files: Vec<String>,
}

/// The complete GGUF models among `names`. Projectors and importance matrices are no models.
pub(crate) fn groups<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<GgufGroup> {
    let mut whole: Vec<GgufGroup> = Vec::new();
    let mut split: std::collections::BTreeMap<(String, u32), Vec<(u32, String)>> =
        std::collections::BTreeMap::new();
    for name in names {
        let file = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
        if !file.ends_with(".gguf") || file.contains("mmproj") || file.contains("imatrix") {
            continue;
        }
        match split_part(name) {
            Some((stem, part, parts)) => {
                split.entry((stem, parts)).or_default().push((part, name.to_owned()))
            }
            None => whole.push(GgufGroup { label: label(name), files: vec![name.to_owned()] }),
        }
    }
    for ((stem, parts), mut files) in split {
        files.sort();
        if files.len() == parts as usize && files.iter().map(|(part, _)| *part).eq(1..=parts) {
            let files = files.into_iter().map(|(_, name)| name).collect();
            whole.push(GgufGroup { label: label(&stem), files });
        }
    }
    whole.sort_by(|a, b| a.files.cmp(&b.files));
    whole
}

/// Picks one group.
pub(crate) fn choose<'a>(
    reference: &str,
    groups: &'a [GgufGroup],
    wanted: Option<&Wanted>,
) -> Result<&'a GgufGroup, HubError> {
    match wanted {
        None => usual(groups.iter())
            .ok_or_else(|| HubError::NoCheckpoint { reference: reference.to_owned(), found: Vec::new() }),
        Some(Wanted::Quant(quant)) => labelled(groups, quant).ok_or_else(|| {
            let mut available: Vec<String> = groups.iter().filter_map(|group| group.label.clone()).collect();
            available.sort();
            available.dedup();
            let nearest = written_otherwise(quant, &available);
            HubError::NoSuchQuant {
                reference: reference.to_owned(),
                quant: quant.clone(),
                nearest,
                available,
            }
        }),
        Some(Wanted::Path(path)) => at_path(groups, path).ok_or_else(|| {
            let files = groups.iter().filter_map(|group| group.files.first());
            HubError::no_such_path(reference, path, files.map(String::as_str))
        }),
    }
}

/// The label that was meant by one without its underscores, or by the beginning of one. Labels that differ in a digit
/// are no slips of each other.
fn written_otherwise(wanted: &str, labels: &[String]) -> Option<String> {
    let plain = |text: &str| text.replace(['_', '-', '.'], "").to_ascii_uppercase();
    let wanted = plain(wanted);
    let same = labels.iter().find(|label| plain(label) == wanted);
    let begun = || labels.iter().find(|label| wanted.len() > 1 && plain(label).starts_with(&wanted));
    same.or_else(begun).cloned()
}

fn usual<'a>(groups: impl Iterator<Item = &'a GgufGroup> + Clone) -> Option<&'a GgufGroup> {
    let labelled = |label: &str| groups.clone().find(|group| group.label.as_deref() == Some(label));
    PREFERRED.iter().find_map(|label| labelled(label)).or_else(|| groups.clone().next())
}

fn labelled<'a>(groups: &'a [GgufGroup], wanted: &str) -> Option<&'a GgufGroup> {
    let wanted = wanted.to_ascii_uppercase();
    let mut ending = groups
        .iter()
        .filter(|group| group.label.as_deref().is_some_and(|l| l.ends_with(&format!("-{wanted}"))));
    let only_ending = ending.next().filter(|_| ending.next().is_none());
    groups.iter().find(|group| group.label.as_deref() == Some(wanted.as_str())).or(only_ending)
}

/// The model that a file belongs to, or the usual one of a folder. A file of a folder is found without it, if there is
/// only one of the name.
fn at_path<'a>(groups: &'a [GgufGroup], path: &str) -> Option<&'a GgufGroup> {
    if path.ends_with('/') {
        return usual(groups.iter().filter(|group| group.files.iter().any(|file| file.starts_with(path))));
    }
    let has = |same: &dyn Fn(&str) -> bool| {
        let mut found = groups.iter().filter(|group| group.files.iter().any(|file| same(file)));
        found.next().filter(|_| found.next().is_none())
    };
    let base = |file: &str| file.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    has(&|file| file == path)
        .or_else(|| has(&|file| file.eq_ignore_ascii_case(path)))
        .or_else(|| if path.contains('/') { None } else { has(&|file| base(file) == base(path)) })
}

/// Stem, part and number of parts of `stem-00001-of-00003.gguf`.
pub(crate) fn split_part(name: &str) -> Option<(String, u32, u32)> {
    let stem = name.get(..name.len().checked_sub(5)?)?;
    if !name[stem.len()..].eq_ignore_ascii_case(".gguf") {
        return None;
    }
    let (rest, parts) = stem.rsplit_once("-of-")?;
    let (base, part) = rest.rsplit_once('-')?;
    let number = |digits: &str| -> Option<u32> {
        (digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
    };
    let (part, parts) = (number(part)?, number(parts)?);
    (part >= 1 && part <= parts).then(|| (base.to_owned(), part, parts))
}

/// The names of all parts of a split file, given one of them; just the name for a whole file.
pub(crate) fn all_parts(name: &str) -> Vec<String> {
    match split_part(name) {
        Some((stem, _, parts)) => {
            (1..=parts).map(|part| format!("{stem}-{part:05}-of-{parts:05}.gguf")).collect()
        }
        None => vec![name.to_owned()],
    }
}

/// The names of all shards of a checkpoint, given one of them; just the name for a whole file.
pub(crate) fn siblings(name: &str) -> Vec<String> {
    const ENDING: &str = ".safetensors";
    let as_gguf = name.strip_suffix(ENDING).map(|stem| format!("{stem}.gguf"));
    let parts = as_gguf.map(|name| all_parts(&name)).unwrap_or_default();
    parts.iter().map(|part| format!("{}{ENDING}", part.trim_end_matches(".gguf"))).collect()
}

/// The quantisation that a file name tells: the last part of it that looks like one.
pub(crate) fn label(name: &str) -> Option<String> {
    let file = name.rsplit('/').next().unwrap_or(name);
    let stem = if file.to_ascii_lowercase().ends_with(".gguf") { &file[..file.len() - 5] } else { file };
    let upper = stem.to_ascii_uppercase();
    let parts: Vec<&str> = upper.split(['-', '.']).collect();
    let at = parts.iter().rposition(|part| is_quant(part))?;
    let dynamic = at > 0 && parts[at - 1] == "UD";
    Some(if dynamic { format!("UD-{}", parts[at]) } else { parts[at].to_owned() })
}

fn is_quant(part: &str) -> bool {
    if matches!(part, "F16" | "BF16" | "F32" | "FP16" | "FP32" | "MXFP4" | "MXFP4_MOE") {
        return true;
    }
    let Some(rest) = ["IQ", "TQ", "Q"].iter().find_map(|start| part.strip_prefix(start)) else {
        return false;
    };
    let mut pieces = rest.split('_');
    let bits = pieces.next().unwrap_or_default();
    let digits = !bits.is_empty() && bits.len() <= 2 && bits.bytes().all(|b| b.is_ascii_digit());
    let mut more = pieces.peekable();
    digits
        && more.peek().is_some()
        && more.all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_in_names_as_people_write_them() {
        for (name, expected) in [
            ("DeepSeek-R1-Distill-Qwen-1.5B-Q4_K_M.gguf", Some("Q4_K_M")),
            ("SmolLM2-135M-Instruct.Q4_1.gguf", Some("Q4_1")),
            ("qwen2.5-7b-instruct-q8_0.gguf", Some("Q8_0")),
            ("sub/DeepSeek-R1-UD-IQ1_S-00001-of-00003.gguf", Some("UD-IQ1_S")),
            ("model-f16.gguf", Some("F16")),
            ("gpt-oss-20b-MXFP4.gguf", Some("MXFP4")),
            ("DeepSeek-R1-Distill-Qwen-7B.i1-IQ2_XXS.gguf", Some("IQ2_XXS")),
            ("qwen2.5-7b-iq3_m.gguf", Some("IQ3_M")),
            ("model-TQ2_0.gguf", Some("TQ2_0")),
            ("Q4_K_M/model-Q8_0-tuned.gguf", Some("Q8_0")),
            ("model.gguf", None),
            ("QwQ-32B.gguf", None),
        ] {
            let found = label(&split_part(name).map_or(name.to_owned(), |(stem, ..)| stem));
            assert_eq!(found.as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn split_models_need_all_their_parts() {
        let names = [
            "a-Q8_0-00002-of-00002.gguf",
            "a-Q8_0-00001-of-00002.gguf",
            "b-Q4_0-00001-of-00002.gguf",
            "mmproj-F16.gguf",
        ];
        let found = groups(names);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].files, ["a-Q8_0-00001-of-00002.gguf", "a-Q8_0-00002-of-00002.gguf"]);
        assert_eq!(all_parts("a-Q8_0-00002-of-00002.gguf"), found[0].files);
        assert!(split_part("a-00003-of-00002.gguf").is_none());
        assert!(split_part("ä.ggu").is_none());
    }

    #[test]
    fn the_choice_is_the_named_one_or_a_sensible_default() {
        let all = groups(["m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-UD-Q2_K_XL.gguf", "m-F16.gguf"]);
        let quant = |label: &str| Wanted::Quant(label.to_ascii_uppercase());
        let pick = |wanted: Option<&str>| {
            choose("hf:o/r", &all, wanted.map(quant).as_ref()).map(|group| group.files[0].clone())
        };
        assert_eq!(pick(None).unwrap(), "m-Q4_K_M.gguf");
        assert_eq!(pick(Some("q8_0")).unwrap(), "m-Q8_0.gguf");
        assert_eq!(pick(Some("Q2_K_XL")).unwrap(), "m-UD-Q2_K_XL.gguf");
        let error = pick(Some("Q3_K_S")).unwrap_err();
        assert_eq!(error.hint().unwrap(), "it has F16, Q4_K_M, Q8_0, UD-Q2_K_XL");
        let error = pick(Some("Q4_KM")).unwrap_err();
        assert!(error.hint().unwrap().starts_with("did you mean Q4_K_M?"), "{error:?}");
        let small = groups(["m-IQ1_S.gguf", "m-IQ2_M.gguf", "m-F16.gguf", "m-IQ2_XXS.gguf"]);
        let pick = |wanted: Option<&str>| {
            choose("hf:o/r:q", &small, wanted.map(quant).as_ref()).map(|group| group.files[0].clone())
        };
        assert_eq!(pick(None).unwrap(), "m-IQ2_M.gguf");
        assert_eq!(pick(Some("iq2_xxs")).unwrap(), "m-IQ2_XXS.gguf");
        assert_eq!(choose("hf:o/r", &groups(["only.gguf"]), None).unwrap().files, ["only.gguf"]);
    }

    #[test]
    fn files_and_folders_are_found_by_their_names() {
        let all = groups([
            "m-Q8_0.gguf",
            "BF16/m-BF16-00001-of-00002.gguf",
            "BF16/m-BF16-00002-of-00002.gguf",
            "old/m-Q4_0.gguf",
            "new/m-Q4_0.gguf",
        ]);
        let pick = |path: &str| {
            choose("hf:o/r", &all, Some(&Wanted::Path(path.into()))).map(|group| group.files[0].clone())
        };
        assert_eq!(pick("m-Q8_0.gguf").unwrap(), "m-Q8_0.gguf");
        assert_eq!(pick("M-q8_0.GGUF").unwrap(), "m-Q8_0.gguf");
        for part in ["BF16/m-BF16-00002-of-00002.gguf", "m-BF16-00001-of-00002.gguf", "BF16/"] {
            assert_eq!(pick(part).unwrap(), "BF16/m-BF16-00001-of-00002.gguf", "{part}");
        }
        assert_eq!(pick("new/m-Q4_0.gguf").unwrap(), "new/m-Q4_0.gguf");
        assert_eq!(pick("old/").unwrap(), "old/m-Q4_0.gguf");
        // Two files have that name.
        assert!(pick("m-Q4_0.gguf").is_err());
        let error = pick("m-Q8.gguf").unwrap_err();
        assert!(error.hint().unwrap().contains("m-Q8_0.gguf"), "{error:?}");
    }
}
