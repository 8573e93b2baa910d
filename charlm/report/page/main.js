// The page of a model: opens the model, and starts the views. A new view is a section of the page (model_page.py), a
// module beside this one, and a line here; one that reads a text by itself does so on a fork of the model.

import {Cells} from './cells.js';
import {Model} from './model.js';
import {Playground} from './playground.js';
import {Reading} from './reading.js';
import {tokenizerOf} from './text.js';
import {decoded} from './views.js';

const data = JSON.parse(document.getElementById('data').textContent);
const weights = document.getElementById('weights');
const model = new Model(data.network, decoded(weights.textContent));
weights.remove();  // they are in memory now
const tokenizer = tokenizerOf(data.tokenizer);
const playground = new Playground(document.getElementById('write'), model, tokenizer, data);
new Reading(document.getElementById('surprisal'), model.fork(), tokenizer, data);
new Cells(document.getElementById('cells'), model.fork(), tokenizer, data, () => playground.beginning + playground.text);
document.querySelectorAll('[data-waiting]').forEach(part => part.disabled = false);
document.body.dataset.ready = Math.round(performance.now());  // milliseconds from the beginning
