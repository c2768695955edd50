() => {
  // The document's language, for screen readers, hyphenation and fonts.
  document.documentElement.lang = (navigator.language || 'en').toLowerCase().startsWith('zh') ? 'zh-CN' : 'en';

  // The line at the top: asked for often while something is going on, seldom when all is well.
  const PAUSE = {ready: 10000, queue: 2000, loading: 1000, lost: 2000};
  let lost = '';
  let shown = '';
  let timer = 0;

  const show = (html) => {
    const line = document.getElementById('state');
    if (!line || (html === shown && line.innerHTML)) return;
    line.innerHTML = html;  // made by our server, which escapes what is not its own
    shown = html;
  };

  // Gradio translates what is on the page, but not the tab's title.
  const entitle = () => {
    const heading = document.querySelector('#masthead h1');
    if (heading && document.title !== heading.textContent) document.title = heading.textContent;
  };

  // On a small screen the answer comes up below what can be seen: bring it there.
  const follow = () => {
    const answer = document.getElementById('answer');
    if (!answer) return setTimeout(follow, 200);
    new MutationObserver(() => {
      if (answer.querySelector('.answer:not(.answer-empty)')) answer.scrollIntoView({block: 'nearest'});
    }).observe(answer, {childList: true, subtree: true});
  };

  const ask = async () => {
    clearTimeout(timer);
    entitle();
    let state = 'lost';
    try {
      const answer = await fetch('status', {cache: 'no-store', signal: AbortSignal.timeout(5000)});
      if (!answer.ok) throw new Error(answer.status);
      const told = await answer.json();
      state = told.queue ? 'queue' : told.state;
      lost = told.lost;
      show(told.html);
    } catch (error) {
      if (lost) show(lost);
    }
    if (!document.hidden) timer = setTimeout(ask, PAUSE[state] || 3000);
  };

  // Pictures do not stay on the server for ever, nor does the server. Before a question is asked, a picture that is
  // gone is sent again, from where it came from, and the question names the new one.
  const UPLOAD = 'gradio_api/upload', JOIN = 'gradio_api/queue/join', FILE = 'gradio_api/file=';
  const MOST = 8;  // pictures remembered
  const sources = new Map();  // a picture's first path → the file
  const renewed = new Map();  // … → the path that it has now
  const send = window.fetch.bind(window);
  let example = null;

  const remember = (map, key, value) => {
    map.set(key, value);
    if (map.size > MOST) map.delete(map.keys().next().value);
  };

  const sendAgain = async (path) => {
    let file = sources.get(path) ?? example;
    if (typeof file === 'string') file = await (await send('example/' + file)).blob();
    if (!file) return path;
    const form = new FormData();
    form.append('files', file, file.name || 'picture.png');
    const answer = await send(UPLOAD, {method: 'POST', body: form});
    if (!answer.ok) return path;  // the server says what is wrong when it is asked
    const [now] = await answer.json();
    remember(renewed, path, now);
    remember(sources, path, file);
    return now;
  };

  const withPicture = async (body) => {
    const question = JSON.parse(body);
    for (const value of question.data) {
      if (typeof value?.path !== 'string') continue;
      const now = renewed.get(value.path) ?? value.path;
      const there = await send(FILE + encodeURI(now), {method: 'HEAD', cache: 'no-store'});
      value.path = there.status === 404 ? await sendAgain(value.path) : now;
    }
    return JSON.stringify(question);
  };

  window.fetch = async (target, options) => {
    const path = String(target?.url ?? target).split('?')[0];
    if (path.endsWith(JOIN)) {
      try {
        options = {...options, body: await withPicture(options.body)};
      } catch (error) {
        // Ask as it is: the server says what is wrong.
      }
    }
    const answer = await send(target, options);
    if (path.endsWith(UPLOAD) && answer.ok) {
      const [uploaded] = await answer.clone().json();
      remember(sources, uploaded, options.body.get('files'));
      example = null;
    }
    return answer;
  };

  document.addEventListener('click', (event) => {
    const card = event.target.closest?.('[data-example]');
    if (card) example = card.dataset.example;
  }, true);

  // Gradio takes away the button that chose, took or removed a picture, and with it the focus: keep it on the picture.
  const holdFocus = () => {
    const picture = document.getElementById('picture');
    if (!picture) return setTimeout(holdFocus, 200);
    picture.tabIndex = -1;  // reached by the line below, never by the Tab key
    let within = false;
    document.addEventListener('focusin', (event) => { within = picture.contains(event.target); });
    document.addEventListener('pointerdown', (event) => { within = picture.contains(event.target); });
    new MutationObserver(() => {
      const held = document.activeElement;
      if (within && (held === document.body || (picture.contains(held) && !held.checkVisibility()))) {
        picture.focus({preventScroll: true});
      }
    }).observe(picture, {childList: true, subtree: true, attributeFilter: ['class']});
  };

  document.addEventListener('visibilitychange', () => { if (!document.hidden) ask(); });
  follow();
  holdFocus();
  ask();
}
