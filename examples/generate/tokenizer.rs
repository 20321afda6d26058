//! Text to tokens and back, by the vocabulary of a GGUF file.

use std::collections::HashSet;
use std::error::Error;

use infer_kernels::gguf::GgufFile;
use kitoken::SpecialTokenKind::{Control, Priority, Unknown};
use kitoken::{
    Configuration, Decoding, Fallback, Kitoken, Metadata, Model, Normalization, SpecialToken,
    SpecialTokenKind, Token,
};

/// What SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";

/// Tokens that are looked for in a text before all else.
const SPECIAL: &[SpecialTokenKind] = &[Control, Priority, Unknown];

/// The vocabulary of a model: SentencePiece's pairs, joined by score, with bytes for what it lacks.
pub struct Tokenizer {
    vocabulary: Kitoken,
    begin: Option<u32>,
    end: u32,
}

/// A text that grows token by token. Characters whose bytes come in several tokens are given out when
/// they are complete.
#[derive(Debug, Default)]
pub struct Text {
    pending: Vec<u8>,
}

impl Tokenizer {
    /// The vocabulary of a file.
    ///
    /// # Errors
    /// For a file without one, or with one of another kind than `llama`.
    pub fn from_gguf(file: &GgufFile<'_>) -> Result<Tokenizer, Box<dyn Error>> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let kind: &str = file.get(&key("model"))?;
        if kind != "llama" {
            return Err(format!("a vocabulary of kind {kind}, expected llama").into());
        }
        let texts: Vec<&str> = file.get(&key("tokens"))?;
        let scores: Vec<f32> = file.get(&key("scores"))?;
        let types: Vec<i64> = file.get(&key("token_type"))?;
        if scores.len() != texts.len() || types.len() != texts.len() {
            return Err("tokens, their scores and types are not as many".into());
        }

        let (mut pairs, mut bytes, mut special) = (Vec::new(), Vec::new(), Vec::new());
        for (id, text) in texts.into_iter().enumerate() {
            let (score, id) = (scores[id], u32::try_from(id)?);
            match types[id as usize] {
                1 => pairs.push((score, Token::from((id, text.into())))),
                6 => bytes.push(Token::from((id, vec![byte(text)?]))),
                // 4: of the user's making. Others are not of the text's making.
                kind => special.push(SpecialToken {
                    id,
                    bytes: text.into(),
                    kind: if kind == 4 { Priority } else { Control },
                    ident: None,
                    score: 0.0,
                    extract: true,
                }),
            }
        }
        // What is joined first, stands first; of tokens that begin alike the longest is looked for.
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
        special.sort_by_key(|token| std::cmp::Reverse(token.bytes.len()));
        let mut vocab: Vec<Token> = pairs.into_iter().map(|(_, token)| token).collect();
        let characters: HashSet<_> = vocab.iter().map(|token| token.bytes.clone()).collect();
        bytes.retain(|byte| !characters.contains(&byte.bytes));
        vocab.extend(bytes);

        let mut config = Configuration::default();
        config.fallback.push(Fallback::Bytes);
        if file.find(&key("add_space_prefix"))?.unwrap_or(true) {
            config.normalization.push(Normalization::Extend {
                character: ' ',
                left: 1,
                right: 0,
                pad: false,
            });
        }
        config.normalization.push(Normalization::Replace {
            pattern: " ".into(),
            replacement: SPACE.to_owned(),
        });
        config.decoding.push(Decoding::Replace {
            pattern: SPACE.into(),
            replacement: " ".to_owned(),
        });
        let model = Model::BytePair { vocab, chars: true };
        let begins = file.find(&key("add_bos_token"))?.unwrap_or(true);
        Ok(Tokenizer {
            vocabulary: Kitoken::new(model, special, config, Metadata::default())?,
            begin: match begins {
                true => Some(file.get(&key("bos_token_id"))?),
                false => None,
            },
            end: file.get(&key("eos_token_id"))?,
        })
    }

    /// The tokens of a text, behind the one that begins every text, if there is one. Special tokens
    /// such as `<start_of_turn>` may stand in the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Box<dyn Error>> {
        let mut tokens = Vec::from_iter(self.begin);
        tokens.extend(self.vocabulary.encode(text, SPECIAL)?);
        Ok(tokens)
    }

    /// The token that ends a text.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// What a token adds to a text.
    pub fn push(&self, text: &mut Text, token: u32) -> Result<String, Box<dyn Error>> {
        let bytes = self.vocabulary.decode([token], SPECIAL)?;
        text.pending.extend(bytes);
        let complete = match std::str::from_utf8(&text.pending) {
            Ok(_) => text.pending.len(),
            // What no further byte completes is given out as it is.
            Err(error) => error
                .error_len()
                .map_or(error.valid_up_to(), |len| error.valid_up_to() + len),
        };
        let bytes: Vec<u8> = text.pending.drain(..complete).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The byte of a token such as `<0x0A>`.
fn byte(text: &str) -> Result<u8, Box<dyn Error>> {
    let digits = text.strip_prefix("<0x").and_then(|of| of.strip_suffix('>'));
    let digits = digits.ok_or_else(|| format!("{text:?} is no byte"))?;
    Ok(u8::from_str_radix(digits, 16)?)
}
