// The page of a model: opens the model, and starts the views. A new view is a section of the page (model_page.py), a
// module beside this one, and a line here; one that reads a text by itself does so on a fork of the model.

import {Model} from './model.js';
import {Playground} from './playground.js';
import {Reading} from './reading.js';
import {tokenizerOf} from './text.js';

function decoded(text) {  // base64
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

const data = JSON.parse(document.getElementById('data').textContent);
const weights = document.getElementById('weights');
const model = new Model(data.network, decoded(weights.textContent));
weights.remove();  // they are in memory now
const tokenizer = tokenizerOf(data.tokenizer);
new Playground(document.getElementById('write'), model, tokenizer, data);
new Reading(document.getElementById('surprisal'), model.fork(), tokenizer, data);
document.querySelectorAll('[data-waiting]').forEach(part => part.disabled = false);
document.body.dataset.ready = Math.round(performance.now());  // milliseconds from the beginning
