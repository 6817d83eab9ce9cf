use llm_arch::{FinalNorm, LayerSpec, MlpSpec, ModelSpec, Side, StackSpec, Unit};

/// The units of a model, in the order of [`Unit`].
#[derive(Debug, Clone)]
pub(crate) struct Units {
    list: Vec<Unit>,
    /// Index of the first layer.
    first_layer: usize,
    n_encoder: usize,
    /// First expert of each decoder layer; one more for the end of the last ones.
    experts: Vec<usize>,
    has_encoder_norm: bool,
}

impl Units {
    pub(crate) fn of(spec: &ModelSpec) -> Self {
        let encoder = spec.encoder.as_ref().map(|encoder| &encoder.stack);
        let n_encoder = encoder.map_or(0, |stack| stack.n_layers());
        let layers = |side, n| (0..n).map(move |i| Unit::Layer(side, i));
        let mut list = vec![Unit::Embedding];
        list.extend(spec.embedding.per_layer.map(|_| Unit::PerLayerTable));
        let first_layer = list.len();
        list.extend(layers(Side::Encoder, n_encoder));
        list.extend(layers(Side::Decoder, spec.decoder.n_layers()));
        let mut experts = vec![list.len()];
        for (layer, spec) in spec.decoder.layers.iter().enumerate() {
            list.extend((0..n_experts(spec)).map(|expert| Unit::Expert { layer, expert }));
            experts.push(list.len());
        }
        let has_norm = |stack: &StackSpec| stack.final_norm == FinalNorm::Present;
        let has_encoder_norm = encoder.is_some_and(has_norm);
        if has_encoder_norm {
            list.push(Unit::FinalNorm(Side::Encoder));
        }
        if has_norm(&spec.decoder) {
            list.push(Unit::FinalNorm(Side::Decoder));
        }
        list.push(Unit::Head);
        Units {
            list,
            first_layer,
            n_encoder,
            experts,
            has_encoder_norm,
        }
    }

    pub(crate) fn list(&self) -> &[Unit] {
        &self.list
    }

    pub(crate) fn n_decoder_layers(&self) -> usize {
        self.experts.len() - 1
    }

    /// Index of a unit of the model in the list.
    pub(crate) fn idx(&self, unit: Unit) -> usize {
        let after_experts = self.experts[self.n_decoder_layers()];
        match unit {
            Unit::Embedding => 0,
            Unit::PerLayerTable => 1,
            Unit::Layer(Side::Encoder, i) => self.first_layer + i,
            Unit::Layer(Side::Decoder, i) => self.first_layer + self.n_encoder + i,
            Unit::Expert { layer, expert } => self.experts[layer] + expert,
            Unit::FinalNorm(Side::Encoder) => after_experts,
            Unit::FinalNorm(Side::Decoder) => after_experts + usize::from(self.has_encoder_norm),
            Unit::Head => self.list.len() - 1,
        }
    }

    /// The units in the order in which they compute, each layer's experts after it.
    pub(crate) fn in_order_of_computing(&self) -> impl Iterator<Item = usize> {
        let after_experts = self.experts[self.n_decoder_layers()];
        let first_layer = self.first_layer + self.n_encoder;
        let layers = (0..self.n_decoder_layers()).flat_map(move |i| {
            std::iter::once(first_layer + i).chain(self.experts[i]..self.experts[i + 1])
        });
        let encoder_norm = after_experts..after_experts + usize::from(self.has_encoder_norm);
        let last = encoder_norm.end..self.list.len();
        (0..first_layer)
            .chain(encoder_norm)
            .chain(layers)
            .chain(last)
    }
}

fn n_experts(layer: &LayerSpec) -> usize {
    match layer.mlp {
        MlpSpec::Dense(_) | MlpSpec::Absent => 0,
        MlpSpec::Experts(experts) => experts.routing.n_experts,
    }
}
