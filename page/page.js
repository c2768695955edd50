() => {
  // The document's language, for screen readers, hyphenation and fonts.
  document.documentElement.lang = (navigator.language || 'en').toLowerCase().startsWith('zh') ? 'zh-CN' : 'en';

  // The status line: polled often while the state may change, rarely otherwise. Milliseconds.
  const PAUSE = {ready: 10000, queue: 2000, loading: 1000, lost: 2000};
  let lost = '';
  let shown = '';
  let timer = 0;

  const show = (html) => {
    const line = document.getElementById('state');
    if (!line || (html === shown && line.innerHTML)) return;
    line.innerHTML = html;  // from our server, which escapes foreign text
    shown = html;
  };

  // Gradio translates the page, but not the tab's title.
  const translateTitle = () => {
    const heading = document.querySelector('#masthead h1');
    if (heading && document.title !== heading.textContent) document.title = heading.textContent;
  };

  // On a small screen the answer appears below the visible part: scroll to it.
  const scrollToAnswer = () => {
    const answer = document.getElementById('answer');
    if (!answer) return setTimeout(scrollToAnswer, 200);
    new MutationObserver(() => {
      if (answer.querySelector('.answer:not(.answer-empty)')) answer.scrollIntoView({block: 'nearest'});
    }).observe(answer, {childList: true, subtree: true});
  };

  const poll = async () => {
    clearTimeout(timer);
    translateTitle();
    let state = 'lost';
    try {
      const answer = await fetch('status', {cache: 'no-store', signal: AbortSignal.timeout(5000)});
      if (answer.status === 401) return location.reload();  // the session has ended: to the login
      if (!answer.ok) throw new Error(answer.status);
      const status = await answer.json();
      state = status.queue ? 'queue' : status.state;
      lost = status.lost;
      show(status.html);
    } catch (error) {
      if (lost) show(lost);
    }
    if (!document.hidden) timer = setTimeout(poll, PAUSE[state] || 3000);
  };

  // The server deletes pictures after a while, and at a restart. Before each call, a missing picture is uploaded
  // again and its path in the call is replaced.
  const UPLOAD = 'gradio_api/upload', JOIN = 'gradio_api/queue/join', FILE = 'gradio_api/file=';
  const REMEMBERED = 8;  // pictures
  const sources = new Map();  // a picture's first path → the file
  const currentPaths = new Map();  // a picture's first path → its current path
  const send = window.fetch.bind(window);
  let example = null;

  const remember = (map, key, value) => {
    map.set(key, value);
    if (map.size > REMEMBERED) map.delete(map.keys().next().value);
  };

  const uploadAgain = async (path) => {
    let file = sources.get(path) ?? example;
    if (typeof file === 'string') file = await (await send('example/' + file)).blob();
    if (!file) return path;
    const form = new FormData();
    form.append('files', file, file.name || 'picture.png');
    const answer = await send(UPLOAD, {method: 'POST', body: form});
    if (!answer.ok) return path;  // the call then returns the error
    const [now] = await answer.json();
    remember(currentPaths, path, now);
    remember(sources, path, file);
    return now;
  };

  const withPicture = async (body) => {
    const call = JSON.parse(body);
    for (const value of call.data) {
      if (typeof value?.path !== 'string') continue;
      const now = currentPaths.get(value.path) ?? value.path;
      const found = await send(FILE + encodeURI(now), {method: 'HEAD', cache: 'no-store'});
      value.path = found.status === 404 ? await uploadAgain(value.path) : now;
    }
    return JSON.stringify(call);
  };

  window.fetch = async (target, options) => {
    const path = String(target?.url ?? target).split('?')[0];
    if (path.endsWith(JOIN)) {
      try {
        options = {...options, body: await withPicture(options.body)};
      } catch (error) {
        // Send the call unchanged: the server returns the error.
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

  document.addEventListener('click', async (event) => {
    if (!event.target.closest?.('[data-logout]')) return;
    await send('logout', {method: 'POST', headers: {'content-type': 'application/json'}, body: '{}'});
    location.reload();
  });

  document.addEventListener('click', (event) => {
    const card = event.target.closest?.('[data-example]');
    if (card) example = card.dataset.example;
  }, true);

  // Gradio removes the focused button when a picture is chosen, taken or removed: keep the focus on the picture.
  const keepFocus = () => {
    const picture = document.getElementById('picture');
    if (!picture) return setTimeout(keepFocus, 200);
    picture.tabIndex = -1;  // focusable by script only
    let within = false;
    document.addEventListener('focusin', (event) => { within = picture.contains(event.target); });
    document.addEventListener('pointerdown', (event) => { within = picture.contains(event.target); });
    new MutationObserver(() => {
      const focused = document.activeElement;
      if (within && (focused === document.body || (picture.contains(focused) && !focused.checkVisibility()))) {
        picture.focus({preventScroll: true});
      }
    }).observe(picture, {childList: true, subtree: true, attributeFilter: ['class']});
  };

  document.addEventListener('visibilitychange', () => { if (!document.hidden) poll(); });
  scrollToAnswer();
  keepFocus();
  poll();
}
