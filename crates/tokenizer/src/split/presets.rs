//! The pre-tokenizers that GGUF files name: each name stands for published split patterns.

use super::{
    pieces::Behavior,
    steps::{GPT2, Step, is_decimal},
};
use crate::error::{Result, TokenizerError};

const OPTIONAL_CONTRACTION: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(crate) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const UFAKZEKA: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const JAIS2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}ℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_MARKS: &str = r"\s?[!-/:-~！-／：-～‘-‟　-。]+";
const DEEPSEEK_CJK: &str = "[一-龥ࠀ-一가-퟿]+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const SPARK25: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##;
const HAN_AND_KANA: &str = "[一-龥぀-ゟ゠-ヿ]+";
const YOUTU_SCRIPTS: &str = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+";
const GPT4O_CASES: [&str; 2] = [
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
];
const TEKKEN_TAIL: &str = r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O_TAIL: &str = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILINGMOE: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const DEFAULT_MARKS: &str = r"[\p{P}\$\+<=>\^~\|]+";
const FALCON_MARKS: &str = r"[\p{P}\$\+<=>\^~\|`]+";
const KIMI_CASES: [&str; 2] = [
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
];
const KIMI_TAIL: &str = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The split patterns that share a name, and what else the name implies.
pub(crate) struct Preset {
    pub(crate) steps: Vec<Step>,
    /// A piece that is a token as a whole is that token, whatever the merges say.
    pub(crate) ignore_merges: bool,
    /// Whether a beginning-of-text token is put in front if the file does not say.
    pub(crate) add_bos: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Default,
    Llama3,
    MiniCpm5,
    DeepSeekLlm,
    DeepSeekCoder,
    DeepSeek3,
    Spark25,
    Youtu,
    Falcon,
    Gpt2,
    StarCoder,
    Jais2,
    Qwen2,
    Qwen35,
    Bloom,
    Viking,
    Tekken,
    Gpt4o,
    TinyAya,
    SuperBpe,
    BailingMoe,
    SeedCoder,
    Kimi,
    Ufakzeka,
    Laguna,
    ExaoneMoe,
    Chameleon,
    GraniteMulti,
}

/// Every name that is known, with its family.
const NAMES: &[(&str, Family)] = &[
    ("default", Family::Default),
    ("llama3", Family::Llama3),
    ("llama-v3", Family::Llama3),
    ("llama-bpe", Family::Llama3),
    ("falcon3", Family::Llama3),
    ("falcon-h1", Family::Llama3),
    ("pixtral", Family::Llama3),
    ("midm-2.0", Family::Llama3),
    ("lfm2", Family::Llama3),
    ("jina-v5-nano", Family::Llama3),
    ("dbrx", Family::Llama3),
    ("smaug-bpe", Family::Llama3),
    ("chatglm-bpe", Family::Llama3),
    ("glm4", Family::Llama3),
    ("minicpm5", Family::MiniCpm5),
    ("deepseek-llm", Family::DeepSeekLlm),
    ("deepseek-coder", Family::DeepSeekCoder),
    ("deepseek-v3", Family::DeepSeek3),
    ("hunyuan-dense", Family::DeepSeek3),
    ("joyai-llm", Family::DeepSeek3),
    ("hy_v4", Family::DeepSeek3),
    ("spark2_5", Family::Spark25),
    ("youtu", Family::Youtu),
    ("falcon", Family::Falcon),
    ("gpt-2", Family::Gpt2),
    ("phi-2", Family::Gpt2),
    ("mpt", Family::Gpt2),
    ("olmo", Family::Gpt2),
    ("jais", Family::Gpt2),
    ("trillion", Family::Gpt2),
    ("granite-docling", Family::Gpt2),
    ("exaone4", Family::Gpt2),
    ("gigachat", Family::Gpt2),
    ("a.x-4.0", Family::Gpt2),
    ("mellum", Family::Gpt2),
    ("modern-bert", Family::Gpt2),
    ("roberta-bpe", Family::Gpt2),
    ("jina-es", Family::Gpt2),
    ("jina-de", Family::Gpt2),
    ("jina-v1-en", Family::Gpt2),
    ("jina-v2-es", Family::Gpt2),
    ("jina-v2-de", Family::Gpt2),
    ("jina-v2-code", Family::Gpt2),
    ("starcoder", Family::StarCoder),
    ("refact", Family::StarCoder),
    ("command-r", Family::StarCoder),
    ("smollm", Family::StarCoder),
    ("codeshell", Family::StarCoder),
    ("exaone", Family::StarCoder),
    ("minerva-7b", Family::StarCoder),
    ("mellum2", Family::StarCoder),
    ("jais-2", Family::Jais2),
    ("qwen2", Family::Qwen2),
    ("deepseek-r1-qwen", Family::Qwen2),
    ("kormo", Family::Qwen2),
    ("f2llmv2", Family::Qwen2),
    ("stablelm2", Family::Qwen2),
    ("hunyuan", Family::Qwen2),
    ("megrez", Family::Qwen2),
    ("solar-open", Family::Qwen2),
    ("grok-2", Family::Qwen2),
    ("qwen35", Family::Qwen35),
    ("poro-chat", Family::Bloom),
    ("bloom", Family::Bloom),
    ("gpt3-finnish", Family::Bloom),
    ("viking", Family::Viking),
    ("tekken", Family::Tekken),
    ("gpt-4o", Family::Gpt4o),
    ("llama4", Family::Gpt4o),
    ("kanana2", Family::Gpt4o),
    ("talkie", Family::Gpt4o),
    ("minimax-m2", Family::Gpt4o),
    ("granite-embed-multi-97m", Family::GraniteMulti),
    ("tiny_aya", Family::TinyAya),
    ("cohere2moe", Family::TinyAya),
    ("superbpe", Family::SuperBpe),
    ("bailingmoe", Family::BailingMoe),
    ("bailingmoe2", Family::BailingMoe),
    ("llada-moe", Family::BailingMoe),
    ("seed-coder", Family::SeedCoder),
    ("kimi-k2", Family::Kimi),
    ("ufakzeka", Family::Ufakzeka),
    ("laguna", Family::Laguna),
    ("exaone-moe", Family::ExaoneMoe),
    ("chameleon", Family::Chameleon),
];

/// The names that [`preset`] knows.
pub(crate) fn names() -> Vec<&'static str> {
    NAMES.iter().map(|(name, _)| *name).collect()
}

fn isolated(patterns: &[&str]) -> Result<Vec<Step>> {
    patterns.iter().map(|p| Step::pattern(p, Behavior::Isolated)).collect()
}

fn with_cases(cases: [&str; 2], suffix: &str, tail: &str) -> String {
    format!("{}{suffix}|{}{suffix}|{tail}", cases[0], cases[1])
}

/// The pre-tokenizer of that name.
///
/// # Errors
/// A name that is not known is refused: any default would tokenize wrongly and say nothing.
pub(crate) fn preset(name: &str) -> Result<Preset> {
    let Some((_, family)) = NAMES.iter().find(|(known, _)| *known == name) else {
        return Err(TokenizerError::unsupported("tokenizer.ggml.pre", name, &names()));
    };
    let steps = match family {
        Family::Default => isolated(&[DEFAULT_MARKS, GPT2, r"\p{N}+", "[0-9][0-9][0-9]"])?,
        Family::Llama3 => isolated(&[LLAMA3])?,
        Family::MiniCpm5 => isolated(&[r"\p{N}{1,3}", MINICPM5])?,
        Family::DeepSeekLlm => {
            isolated(&["[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_MARKS, r"\s+$", DEEPSEEK_CJK, r"\p{N}"])?
        }
        Family::DeepSeekCoder => isolated(&["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}"])?,
        Family::DeepSeek3 => isolated(&[r"\p{N}{1,3}", HAN_AND_KANA, DEEPSEEK3])?,
        Family::Spark25 => isolated(&[r"\p{N}{1,3}", HAN_AND_KANA, SPARK25, r"\p{N}"])?,
        Family::Youtu => {
            let main = with_cases(GPT4O_CASES, OPTIONAL_CONTRACTION, TEKKEN_TAIL);
            isolated(&[YOUTU_SCRIPTS, &main])?
        }
        Family::Falcon => isolated(&[FALCON_MARKS, GPT2, "[0-9][0-9][0-9]"])?,
        Family::Gpt2 => isolated(&[GPT2])?,
        Family::StarCoder => isolated(&[r"\p{N}", GPT2])?,
        Family::Jais2 => isolated(&[JAIS2])?,
        Family::Qwen2 => isolated(&[QWEN2])?,
        Family::Qwen35 => isolated(&[QWEN35])?,
        Family::Bloom => isolated(&[BLOOM])?,
        Family::Viking => isolated(&[BLOOM, r"\p{N}"])?,
        Family::Tekken => isolated(&[&with_cases(GPT4O_CASES, "", TEKKEN_TAIL)])?,
        Family::Gpt4o => isolated(&[&with_cases(GPT4O_CASES, OPTIONAL_CONTRACTION, GPT4O_TAIL)])?,
        Family::GraniteMulti => isolated(&[&with_cases(GPT4O_CASES, OPTIONAL_CONTRACTION, GPT4O_TAIL)])?,
        Family::TinyAya => {
            let mut steps = vec![Step::DigitGroups { is: is_decimal, whole_words: true }];
            steps.extend(isolated(&[&with_cases(GPT4O_CASES, OPTIONAL_CONTRACTION, GPT4O_TAIL)])?);
            steps
        }
        Family::SuperBpe => {
            let mut steps = isolated(&[r"\p{N}+"])?;
            steps.push(Step::DigitCuts);
            steps
        }
        Family::BailingMoe => isolated(&[BAILINGMOE])?,
        Family::SeedCoder => isolated(&[SEED_CODER])?,
        Family::Kimi => {
            let words = with_cases(KIMI_CASES, OPTIONAL_CONTRACTION, KIMI_TAIL);
            isolated(&[&format!(r"[\p{{Han}}]+|{words}")])?
        }
        Family::Ufakzeka => isolated(&[UFAKZEKA])?,
        Family::Laguna => isolated(&[r"[^\n]+|[\n]+", QWEN2])?,
        Family::ExaoneMoe => isolated(&[EXAONE_MOE])?,
        Family::Chameleon => isolated(&[
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ])?,
    };
    let llama3_proper =
        *family == Family::Llama3 && !matches!(name, "dbrx" | "smaug-bpe" | "chatglm-bpe" | "glm4");
    Ok(Preset {
        steps,
        ignore_merges: llama3_proper
            || matches!(family, Family::MiniCpm5 | Family::Youtu | Family::Tekken | Family::GraniteMulti),
        add_bos: llama3_proper || matches!(family, Family::Tekken | Family::Chameleon),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_compiles() {
        for name in names() {
            assert!(preset(name).is_ok(), "{name}: {:?}", preset(name).err());
        }
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_known_ones() {
        let error = preset("qwen2-typo").err().unwrap().to_string();
        assert!(error.contains("qwen2-typo") && error.contains("llama-bpe") && error.contains("deepseek-v3"));
    }
}
