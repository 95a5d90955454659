//! The tensors of a Whisper model, in the order and under the names of a ggml file, and what the other forms call
//! them.

/// The numbers that decide which tensors there are, and how large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Shape {
    pub(super) vocab: u32,
    pub(super) audio_ctx: u32,
    pub(super) width: u32,
    pub(super) encoder_heads: u32,
    pub(super) encoder_layers: u32,
    pub(super) text_ctx: u32,
    pub(super) decoder_heads: u32,
    pub(super) decoder_layers: u32,
    pub(super) mels: u32,
}

impl Shape {
    /// The eleven numbers of a file's head.
    pub(super) fn head(&self, numbers: u32) -> [u32; 11] {
        [
            self.vocab,
            self.audio_ctx,
            self.width,
            self.encoder_heads,
            self.encoder_layers,
            self.text_ctx,
            self.width,
            self.decoder_heads,
            self.decoder_layers,
            self.mels,
            numbers,
        ]
    }
}

/// A tensor of a ggml file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) name: String,
    /// The outermost dimension first; a ggml file has it last.
    pub(super) sizes: Vec<u64>,
}

impl Planned {
    pub(super) fn values(&self) -> u64 {
        self.sizes.iter().product()
    }
}

/// All tensors, in the order in which they are written.
pub(super) fn plan(shape: &Shape) -> Vec<Planned> {
    let [width, vocab, mels] = [shape.width, shape.vocab, shape.mels].map(u64::from);
    let mut plan = Plan { width, tensors: Vec::new() };
    plan.add("encoder.positional_embedding", &[shape.audio_ctx.into(), width]);
    for (conv, inputs) in [("encoder.conv1", mels), ("encoder.conv2", width)] {
        plan.add(&format!("{conv}.weight"), &[width, inputs, 3]);
        plan.add(&format!("{conv}.bias"), &[width, 1]);
    }
    for layer in 0..shape.encoder_layers {
        let block = format!("encoder.blocks.{layer}");
        plan.attention(&format!("{block}.attn"));
        plan.feed_forward(&block);
    }
    plan.norm("encoder.ln_post");
    plan.add("decoder.positional_embedding", &[shape.text_ctx.into(), width]);
    plan.add("decoder.token_embedding.weight", &[vocab, width]);
    for layer in 0..shape.decoder_layers {
        let block = format!("decoder.blocks.{layer}");
        plan.attention(&format!("{block}.attn"));
        plan.attention(&format!("{block}.cross_attn"));
        plan.feed_forward(&block);
    }
    plan.norm("decoder.ln");
    plan.tensors
}

struct Plan {
    width: u64,
    tensors: Vec<Planned>,
}

impl Plan {
    fn add(&mut self, name: &str, sizes: &[u64]) {
        self.tensors.push(Planned { name: name.to_owned(), sizes: sizes.to_vec() });
    }

    fn norm(&mut self, name: &str) {
        self.add(&format!("{name}.weight"), &[self.width]);
        self.add(&format!("{name}.bias"), &[self.width]);
    }

    /// Keys have no bias.
    fn attention(&mut self, name: &str) {
        let width = self.width;
        for (part, bias) in [("query", true), ("key", false), ("value", true), ("out", true)] {
            self.add(&format!("{name}.{part}.weight"), &[width, width]);
            if bias {
                self.add(&format!("{name}.{part}.bias"), &[width]);
            }
        }
        self.norm(&format!("{name}_ln"));
    }

    fn feed_forward(&mut self, block: &str) {
        let width = self.width;
        for (part, outputs, inputs) in [("mlp.0", 4 * width, width), ("mlp.2", width, 4 * width)] {
            self.add(&format!("{block}.{part}.weight"), &[outputs, inputs]);
            self.add(&format!("{block}.{part}.bias"), &[outputs]);
        }
        self.norm(&format!("{block}.mlp_ln"));
    }
}

/// What transformers calls a tensor, without the `model.` in front.
pub(super) fn in_transformers(name: &str) -> String {
    match name {
        "encoder.positional_embedding" => return "encoder.embed_positions.weight".to_owned(),
        "decoder.positional_embedding" => return "decoder.embed_positions.weight".to_owned(),
        "decoder.token_embedding.weight" => return "decoder.embed_tokens.weight".to_owned(),
        _ => {}
    }
    let mut name = name.replace(".blocks.", ".layers.");
    for (ours, theirs) in [
        ("encoder.ln_post.", "encoder.layer_norm."),
        ("decoder.ln.", "decoder.layer_norm."),
        (".cross_attn_ln.", ".encoder_attn_layer_norm."),
        (".cross_attn.", ".encoder_attn."),
        (".attn_ln.", ".self_attn_layer_norm."),
        (".attn.", ".self_attn."),
        (".mlp_ln.", ".final_layer_norm."),
        (".mlp.0.", ".fc1."),
        (".mlp.2.", ".fc2."),
        (".query.", ".q_proj."),
        (".key.", ".k_proj."),
        (".value.", ".v_proj."),
        (".out.", ".out_proj."),
    ] {
        name = name.replace(ours, theirs);
    }
    name
}

/// What CTranslate2 calls a tensor, and which part of how many it is of that variable.
pub(super) fn in_ctranslate2(name: &str) -> (String, u64, u64) {
    match name {
        "encoder.positional_embedding" => return whole("encoder/position_encodings/encodings"),
        "decoder.positional_embedding" => return whole("decoder/position_encodings/encodings"),
        "decoder.token_embedding.weight" => return whole("decoder/embeddings/weight"),
        _ => {}
    }
    let (rest, kind) = name.rsplit_once('.').unwrap_or((name, ""));
    let norm = if kind == "weight" { "gamma" } else { "beta" };
    if let Some((half, "ln_post" | "ln")) = rest.split_once('.') {
        return whole(&format!("{half}/layer_norm/{norm}"));
    }
    let parts: Vec<&str> = rest.splitn(4, '.').collect();
    let [half, "blocks", layer, what] = parts[..] else { return whole(&name.replace('.', "/")) };
    let (place, part, parts) = match what {
        "attn.query" => ("self_attention/linear_0", 0, 3),
        "attn.key" => ("self_attention/linear_0", 1, 3),
        "attn.value" => ("self_attention/linear_0", 2, 3),
        "attn.out" => ("self_attention/linear_1", 0, 1),
        "cross_attn.query" => ("attention/linear_0", 0, 1),
        "cross_attn.key" => ("attention/linear_1", 0, 2),
        "cross_attn.value" => ("attention/linear_1", 1, 2),
        "cross_attn.out" => ("attention/linear_2", 0, 1),
        "mlp.0" => ("ffn/linear_0", 0, 1),
        "mlp.2" => ("ffn/linear_1", 0, 1),
        norms => {
            let place = match norms {
                "attn_ln" => "self_attention",
                "cross_attn_ln" => "attention",
                _ => "ffn",
            };
            return whole(&format!("{half}/layer_{layer}/{place}/layer_norm/{norm}"));
        }
    };
    (format!("{half}/layer_{layer}/{place}/{kind}"), part, parts)
}

fn whole(name: &str) -> (String, u64, u64) {
    (name.to_owned(), 0, 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn there_are_as_many_tensors_as_a_checked_file_has() {
        let shape = Shape {
            vocab: 51_865,
            audio_ctx: 1500,
            width: 512,
            encoder_heads: 8,
            encoder_layers: 6,
            text_ctx: 448,
            decoder_heads: 8,
            decoder_layers: 4,
            mels: 80,
        };
        let plan = plan(&shape);
        assert_eq!(plan.len(), 11 + 15 * 6 + 24 * 4);
        let names: HashSet<_> = plan.iter().map(|tensor| &tensor.name).collect();
        let transformers: HashSet<_> = plan.iter().map(|tensor| in_transformers(&tensor.name)).collect();
        let ctranslate2: HashSet<_> = plan.iter().map(|tensor| in_ctranslate2(&tensor.name)).collect();
        assert!([names.len(), transformers.len(), ctranslate2.len()].iter().all(|n| *n == plan.len()));
    }

    #[test]
    fn the_other_forms_have_their_own_names() {
        for (name, transformers, ctranslate2) in [
            ("encoder.conv2.bias", "encoder.conv2.bias", ("encoder/conv2/bias", 0, 1)),
            ("encoder.ln_post.bias", "encoder.layer_norm.bias", ("encoder/layer_norm/beta", 0, 1)),
            ("decoder.ln.weight", "decoder.layer_norm.weight", ("decoder/layer_norm/gamma", 0, 1)),
            (
                "encoder.blocks.11.attn.value.bias",
                "encoder.layers.11.self_attn.v_proj.bias",
                ("encoder/layer_11/self_attention/linear_0/bias", 2, 3),
            ),
            (
                "decoder.blocks.0.cross_attn.key.weight",
                "decoder.layers.0.encoder_attn.k_proj.weight",
                ("decoder/layer_0/attention/linear_1/weight", 0, 2),
            ),
            (
                "decoder.blocks.0.cross_attn_ln.weight",
                "decoder.layers.0.encoder_attn_layer_norm.weight",
                ("decoder/layer_0/attention/layer_norm/gamma", 0, 1),
            ),
            (
                "decoder.blocks.3.mlp.2.weight",
                "decoder.layers.3.fc2.weight",
                ("decoder/layer_3/ffn/linear_1/weight", 0, 1),
            ),
            (
                "decoder.blocks.3.mlp_ln.bias",
                "decoder.layers.3.final_layer_norm.bias",
                ("decoder/layer_3/ffn/layer_norm/beta", 0, 1),
            ),
        ] {
            assert_eq!(in_transformers(name), transformers);
            let (variable, part, parts) = in_ctranslate2(name);
            assert_eq!((variable.as_str(), part, parts), ctranslate2);
        }
    }
}
