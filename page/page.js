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
      window.ofa?.lost();
    }
    if (!document.hidden) timer = setTimeout(poll, PAUSE[state] || 3000);
  };

  document.addEventListener('click', async (event) => {
    if (!event.target.closest?.('[data-logout]')) return;
    await fetch('logout', {method: 'POST', headers: {'content-type': 'application/json'}, body: '{}'});
    location.reload();
  });

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
  keepFocus();
  poll();
}
