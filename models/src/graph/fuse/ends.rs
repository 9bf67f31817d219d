//! Nodes that are fused into the layer before them: normalizations, ReLU, sums.

use super::{Builder, GraphError};
use crate::graph::{Filter, Layer, Op, Second, Value, ValueId, Weights};

impl<'a> Builder<'a> {
    /// The layer that writes `value` as its first output, if nothing but this node reads it and nothing was fused behind it yet.
    fn open_layer(&mut self, value: ValueId, name: &str) -> Option<&mut Layer> {
        let layer = &mut self.graph.layers[self.writers[value]?];
        let open = layer.raw == Some(value) && layer.second.is_none() && !layer.relu;
        let fits = !matches!(layer.op, Op::GlobalPool { .. });
        (open && fits && self.uses.get(name) == Some(&1)).then_some(layer)
    }

    pub(super) fn norm(&mut self) -> Result<(), GraphError> {
        let name = self.input_name(0)?;
        let source = self.value(name)?;
        let channels = self.known_channels(source)?;
        self.only_int("training_mode", 0, 0)?;
        let [scale, bias, mean, variance] = [1, 2, 3, 4]
            .map(|i| self.floats(i, channels))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?
            .try_into()
            .expect("four parameters");
        let epsilon = f64::from(self.float("epsilon", 1e-5)?);
        let (mut factors, mut shifts) = (Vec::new(), Vec::new());
        for c in 0..channels {
            let factor = f64::from(scale[c]) / (f64::from(variance[c]) + epsilon).sqrt();
            factors.push(factor as f32);
            shifts.push((f64::from(bias[c]) - f64::from(mean[c]) * factor) as f32);
        }
        if factors.iter().chain(&shifts).any(|v| !v.is_finite()) {
            return self.fail("scale or shift is not finite: a variance of 0 or less, or an overflow");
        }
        let output = self.output()?;
        self.same_rank(name, output);
        let open = self.open_layer(source, name);
        let alone = open.is_some_and(|layer| matches!(layer.op, Op::Conv(_)) && layer.residual.is_none());
        if let Some(writer) = self.writers[source].filter(|_| alone)
            && let (Op::Conv(filter), Some(weights)) =
                (&mut self.graph.layers[writer].op, self.weights.get_mut(&writer))
        {
            if !scale_filter(filter, weights, &factors, &shifts) {
                return self.fail("the weights before it, scaled, are not finite");
            }
            self.names.insert(output, source);
            return Ok(());
        }
        self.norms.insert(output, (source, factors, shifts));
        Ok(())
    }

    pub(super) fn relu(&mut self) -> Result<(), GraphError> {
        let (name, output) = (self.input_name(0)?, self.output()?);
        self.same_rank(name, output);
        if self.uses.get(name) == Some(&1)
            && let Some((value, scale, shift)) = self.norms.remove(name)
        {
            self.second(output, value, scale, shift, true)?;
            return Ok(());
        }
        let source = self.value(name)?;
        if let Some(layer) = self.open_layer(source, name) {
            layer.relu = true;
            self.names.insert(output, source);
            return Ok(());
        }
        let channels = self.known_channels(source)?;
        self.second(output, source, vec![1.0; channels], vec![0.0; channels], true)?;
        Ok(())
    }

    /// `relu?(value · scale + shift)` as the second output of the layer that writes `value`, or of a copy.
    pub(super) fn second(
        &mut self,
        name: &'a str,
        value: ValueId,
        scale: Vec<f32>,
        shift: Vec<f32>,
        relu: bool,
    ) -> Result<ValueId, GraphError> {
        let new = Value { name: name.to_owned(), ..self.graph.values[value].clone() };
        let free = self.writers[value].filter(|&writer| {
            let layer = &self.graph.layers[writer];
            layer.second.is_none() && layer.raw == Some(value) && !matches!(layer.op, Op::GlobalPool { .. })
        });
        let writer = free.unwrap_or(self.graph.layers.len());
        let id = self.new_value(name, new, writer)?;
        let second = Some(Second { value: id, scale, shift, relu });
        match free {
            Some(writer) => self.graph.layers[writer].second = second,
            None => self.push(Layer {
                name: name.to_owned(),
                op: Op::Copy,
                source: value,
                residual: None,
                relu: false,
                raw: None,
                second,
            })?,
        }
        Ok(id)
    }

    pub(super) fn sum(&mut self) -> Result<(), GraphError> {
        let names = [self.input_name(0)?, self.input_name(1)?];
        let values = [self.input(0)?, self.input(1)?];
        let [a, b] = values.map(|v| &self.graph.values[v]);
        let [pixel, other] = names.map(|name| self.pixels.contains(name));
        if (a.channels, a.flat, pixel) != (b.channels, b.flat, other) {
            return self.fail(format!("{} and {} channels, or a map and a vector", a.channels, b.channels));
        }
        let output = self.output()?;
        self.same_rank(names[0], output);
        // The later one can add the other as it is written.
        let later = usize::from(self.writers[values[1]] > self.writers[values[0]]);
        let (value, other) = (values[later], values[1 - later]);
        if value != other
            && let Some(layer) = self.open_layer(value, names[later])
            && layer.residual.is_none()
        {
            layer.residual = Some(other);
            self.names.insert(output, value);
            return Ok(());
        }
        let new = Value { name: output.to_owned(), ..self.graph.values[value].clone() };
        self.layer(Op::Copy, value, new)?;
        let layer = self.graph.layers.last_mut().expect("a layer was just added");
        layer.residual = Some(other);
        Ok(())
    }
}

/// A normalization goes into the weights before it; returns whether they are finite still.
fn scale_filter(filter: &mut Filter, weights: &mut Weights<'_>, scale: &[f32], shift: &[f32]) -> bool {
    let mut values: Vec<f32> = match weights {
        Weights::Full(values) => std::mem::take(values),
        Weights::Half(_) | Weights::Bf16(_) => (0..weights.len()).map(|at| weights.at(at)).collect(),
    };
    let each = values.len() / filter.outputs;
    for (values, scale) in values.chunks_exact_mut(each).zip(scale) {
        values.iter_mut().for_each(|v| *v *= scale);
    }
    for ((bias, scale), shift) in filter.bias.iter_mut().zip(scale).zip(shift) {
        *bias = *bias * scale + shift;
    }
    let finite = values.iter().chain(&filter.bias).all(|v| v.is_finite());
    *weights = Weights::Full(values);
    finite
}
