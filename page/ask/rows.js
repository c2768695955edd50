// The elements of rows and groups. Text of users and of the server is set as text, never as HTML.
const drawing = (() => {
  const LABELS = ['Yes', 'No', 'Maybe'];
  const MARKS = {
    Yes: '<path d="M5 12.5l4.5 4.5L19 7.5"/>',
    No: '<path d="M6.5 6.5l11 11M17.5 6.5l-11 11"/>',
    Maybe: '<path d="M8.5 9a3.5 3.5 0 1 1 5 3.2c-1 .5-1.5 1.1-1.5 2.3M12 18.2v.1"/>',
    none: '<path d="M12 6.5v7M12 17.4v.1"/>',
  };

  const ICONS = {
    edit: '<path d="M4.5 19.5l1-4.5L16 4.5l3.5 3.5L9 18.5z"/>',
    json: '<path d="M9 4.5c-4 0-1 6.5-4.5 7.5 3.5 1 .5 7.5 4.5 7.500M15 4.500c4 0 1 6.5 4.5 7.5-3.5 1-.5 7.5-4.5 7.5"/>',
    curl: '<path d="M4.5 7l5 5-5 5M12.5 17.500h7"/>',
    delete: '<path d="M6.5 6.500l11 11M17.5 6.500l-11 11"/>',
  };

  const make = (tag, {text, ...attributes} = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    made.append(...children);
    return made;
  };
  const button = (action, text, attributes = {}) => make('button', {type: 'button', 'data-do': action, text, ...attributes});

  const mark = (name) => {
    const svg = make('span', {class: 'answer-mark', 'aria-hidden': 'true'});
    svg.innerHTML = `<svg viewBox="0 0 24 24">${MARKS[name]}</svg>`;
    return svg;
  };

  const head = (sign, word, text, ...more) =>
    make('div', {class: 'answer-head'}, sign, make('div', {}, make('p', {class: 'answer-word', text: word}),
      ...(text ? [make('p', {text})] : [])), ...more);

  const bar = (words, label, {verdict, shares}) => {
    const fill = make('span', {class: 'bar-fill'});
    fill.style.width = `${verdict.scores[label] * 100}%`;
    return make('li', {class: `bar bar-${label.toLowerCase()}${label === verdict.label ? ' bar-chosen' : ''}`},
      make('span', {class: 'bar-name', text: words[`label.${label}`]}),
      make('span', {class: 'bar-track'}, fill),
      make('span', {class: 'bar-value', text: shares[label]}));
  };

  const decided = (words, answer) => {
    const {label} = answer.verdict;
    return [
      head(mark(label), words[`label.${label}`], words[`meaning.${label}`],
        make('span', {class: 'answer-score', text: answer.shares[label]})),
      make('ul', {class: 'bars', 'aria-label': words.probabilities}, ...LABELS.map((one) => bar(words, one, answer))),
      make('p', {class: 'answer-meta', text: answer.meta}),
    ];
  };

  const dots = () => make('span', {class: 'pending-dots', 'aria-hidden': 'true'}, ...[1, 2, 3].map(() => make('i')));

  // Return the parts of an answer by its state: verdict, none, input, or pending.
  const answered = (words, answer) => {
    switch (answer?.state) {
      case 'verdict': return decided(words, answer);
      case 'none': return [head(mark('none'), words['none.title'], words['none.lead']),
        make('p', {}, make('strong', {text: answer.text}), ` ${answer.remedy} `, button('again', words['rows.again']))];
      case 'input': return [head(mark('none'), words['input.title'], answer.text)];
      default: return [head(dots(), words['pending.title'], answer?.text)];
    }
  };

  const body = (words, answer) => make('div', {class: 'answer-body'}, ...answered(words, answer));

  const style = (answer) => answer?.state === 'verdict' ? answer.verdict.label.toLowerCase() : answer?.state ?? 'pending';

  const asked = (words, {text, premise}, access) => make('div', {class: 'answer-asked'},
    make('div', {}, make('p', {class: 'answer-sentence', dir: 'auto', text}),
      ...(premise ? [make('p', {class: 'answer-premise'}, make('b', {text: `${words['rows.premise']} `}),
        make('bdi', {text: premise}))] : [])),
    tools(words, access));

  const editor = (words, row) => {
    const field = make('textarea', {rows: 2, 'aria-label': words['rows.sentence'], dir: 'auto'});
    field.value = row.text;
    return make('form', {class: 'answer-editor'}, field, make('div', {class: 'editor-tools'},
      make('button', {type: 'submit', text: words['rows.ask']}), button('cancel', words['rows.cancel'])));
  };

  const icon = (action, words) => {
    const label = words[`rows.${action}`];
    const made = button(action, undefined, {class: 'icon', 'aria-label': label, title: label});
    made.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true">${ICONS[action]}</svg>`;
    return made;
  };
  // Behind a login without keys, a command has no way to call the API.
  const tools = (words, access) => make('div', {class: 'answer-tools'}, ...Object.keys(ICONS)
    .filter((action) => action !== 'curl' || access !== 'login').map((action) => icon(action, words)));

  // Draw a row into its list item.
  const row = (words, shown, access) => {
    const {element, answer} = shown;
    element.className = `answer answer-${style(answer)}`;
    if (answer?.state === 'none') element.dataset.reason = answer.verdict?.reason ?? answer.code;
    else delete element.dataset.reason;
    if (shown.editing && element.querySelector('form')) element.lastChild.replaceWith(body(words, answer));
    else element.replaceChildren(shown.editing ? editor(words, shown) : asked(words, shown, access), body(words, answer));
  };

  const notice = (words, {id, answer}) => {
    const alert = style(answer) === 'pending' ? {} : {role: 'alert'};
    return make('div', {class: `answer answer-${style(answer)}`, 'data-question': id, ...alert}, body(words, answer));
  };

  const empty = (words) => make('div', {class: 'answer answer-empty'},
    make('p', {class: 'answer-word', text: words.empty_title}), make('p', {text: words.empty_text}));

  const count = (words, rows) =>
    words[`rows.count.${rows.length === 1 ? 'one' : 'many'}`].replace('{count}', rows.length);

  // Make a group's section: its head with the thumbnail, and its list.
  const group = (words, {id, name}) => {
    const list = make('ul', {class: 'group-rows', role: 'list', id: `rows-${id}`, 'aria-label': name});
    const toggle = button('toggle', undefined, {class: 'group-toggle', 'aria-controls': list.id});
    toggle.append(make('span', {class: 'thumb'}), make('span', {class: 'group-name'},
      make('bdi', {text: name}), make('small')));
    return make('section', {class: 'group', 'data-group': id},
      make('div', {class: 'group-head'}, make('h3', {}, toggle), button('use', words['rows.use'])), list);
  };

  const time = (at) => {
    const when = new Date(at), today = when.toDateString() === new Date().toDateString();
    return when.toLocaleString(document.documentElement.lang, {timeStyle: 'short', ...(today ? {} : {dateStyle: 'short'})});
  };

  // Bring a group's section up to date, but for its rows.
  const heading = (words, {element, rows, open, picture, url}, inForm) => {
    element.querySelector('[data-do=toggle]').setAttribute('aria-expanded', open);
    element.querySelector('.group-rows').hidden = !open;
    const use = element.querySelector('[data-do=use]');
    use.hidden = inForm;
    use.disabled = picture === null;
    element.querySelector('small').textContent = `${count(words, rows)} · ${time(rows[0].at)}`;
    const thumb = element.querySelector('.thumb');
    if (url && !thumb.firstChild) {
      const image = make('img', {src: url, alt: ''});
      image.addEventListener('error', () => image.remove());  // a format that the browser cannot show
      thumb.append(image);
    }
  };

  // Return an answer as one line for a screen reader.
  const spoken = (words, {text, answer}) => {
    const {state, verdict, shares} = answer;
    if (state === 'verdict') return `${text}: ${words[`label.${verdict.label}`]}, ${shares[verdict.label]}`;
    return `${text ? `${text}: ` : ''}${state === 'none' ? `${words['none.title']}. ` : ''}${answer.text}`;
  };

  return {make, button, row, notice, empty, group, heading, spoken};
})();
