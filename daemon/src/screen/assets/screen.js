// The page keeps itself current: the box says by server-sent events that something changed, and the parts that change are fetched again.
// Nothing here decides anything; without it the page reloads itself every ten seconds.
'use strict';
(() => {
  const byId = (id) => document.getElementById(id);
  const streams = byId('alerts') !== null;
  // Three beats of the server: then what is shown may be old.
  const SILENCE_MS = 10_000;
  const PATIENCE_MS = 8_000;

  // --- Contact -----------------------------------------------------------------------------------------------------
  // Current is a page that shows what the box announced, and has heard of it lately.
  let current = performance.now();
  let lastTime = new Date().toLocaleTimeString();
  let announced = null; // The version that the box has.
  let shown = null; // The version that this page shows.
  let source = null;
  let alerts = 0;
  let escalated = 0;

  function heard(now) {
    if (byId('clock')) byId('clock').textContent = now.time;
    // Counts that could not be read are no zero.
    if (now.alerts === null) return;
    if (now.alerts > alerts) sounded = -Infinity;
    alerts = now.alerts;
    escalated = now.escalated;
    document.title = document.title.replace(/^\(\d+\) /, '');
    if (alerts > 0) document.title = `(${alerts}) ${document.title}`;
    announced = now.version;
    if (announced !== shown) { refresh(); return; }
    current = performance.now();
    lastTime = now.time;
  }

  function connect() {
    if (source) source.close();
    source = null;
    // Browsers open six connections to a host: pages that nobody looks at ask now and then instead of holding one.
    if (document.hidden) return;
    const made = new EventSource('/events');
    source = made;
    made.onmessage = (message) => heard(JSON.parse(message.data));
    made.onerror = () => {
      // A refusal (a restart, a session that ended) closes it for good: the browser does not come back by itself.
      if (made.readyState === EventSource.CLOSED) setTimeout(() => { if (source === made) { ask(); connect(); } }, 2_000);
    };
  }

  async function ask() {
    try {
      const response = await fetch('/beat', { credentials: 'same-origin', signal: AbortSignal.timeout(PATIENCE_MS) });
      if (response.status === 401) { location.reload(); return; }
      if (response.ok) heard(await response.json());
    } catch { /* The watch says so. */ }
  }

  function watch() {
    const silence = performance.now() - current;
    const stale = silence > SILENCE_MS;
    byId('stale').classList.add('known');
    byId('stale').hidden = !stale;
    byId('stale-since').textContent = stale ? lastTime : '';
    document.body.classList.toggle('is-stale', stale);
    // A connection that died without a word.
    if (silence > 3 * SILENCE_MS && !document.hidden && performance.now() - connected > 2 * SILENCE_MS) {
      connected = performance.now();
      connect();
    }
  }
  let connected = performance.now();

  // --- Parts that change -------------------------------------------------------------------------------------------
  let refreshing = false;
  let held = false; // A button is being pressed: what it belongs to must not be replaced under it.

  async function refresh() {
    if (refreshing || held) return;
    refreshing = true;
    const version = announced;
    let whole = true;
    try {
      for (const element of document.querySelectorAll('[data-part]')) whole = (await load(element)) && whole;
    } finally {
      refreshing = false;
    }
    if (!whole) return; // The next beat tries again.
    shown = version;
    current = performance.now();
    if (byId('clock') && byId('clock').textContent) lastTime = byId('clock').textContent;
    if (announced !== shown) refresh();
  }

  /// Whether the part is as the box has it.
  async function load(element) {
    let text;
    try {
      const response = await fetch(element.dataset.part,
        { credentials: 'same-origin', redirect: 'manual', signal: AbortSignal.timeout(PATIENCE_MS) });
      if (response.type === 'opaqueredirect') { location.reload(); return false; }
      if (!response.ok) return false;
      text = await response.text();
    } catch {
      return false;
    }
    if (element.dataset.shown === text) return true;
    element.dataset.shown = text;
    // Who works with the keyboard stays where they are.
    const focused = element.contains(document.activeElement) ? document.activeElement.id : null;
    element.innerHTML = text;
    if (focused && byId(focused)) byId(focused).focus({ preventScroll: true });
    // The slices are another revision's now.
    const revision = element.querySelector('[data-revision]');
    if (revision && byId('slices') && revision.dataset.revision !== openedRevision) location.reload();
    return true;
  }
  const firstRevision = document.querySelector('#live [data-revision]');
  const openedRevision = firstRevision ? firstRevision.dataset.revision : null;

  for (const kind of ['pointerup', 'pointercancel']) document.addEventListener(kind, () => { held = false; });
  document.addEventListener('pointerdown', () => { held = true; setTimeout(() => { held = false; }, 2_000); });

  // --- Sound -------------------------------------------------------------------------------------------------------
  const button = byId('sound');
  let audio = null;
  let wanted = true;
  let sounded = -Infinity;

  function remembered() {
    try { return localStorage.getItem('sound') !== 'off'; } catch { return true; }
  }

  function showSound() {
    const blocked = wanted && (!audio || audio.state !== 'running');
    button.textContent = !wanted ? button.dataset.off : blocked ? button.dataset.blocked : button.dataset.on;
  }

  function tone(at, frequency, seconds, loudness) {
    const oscillator = audio.createOscillator();
    const gain = audio.createGain();
    oscillator.type = 'triangle';
    oscillator.frequency.value = frequency;
    gain.gain.setValueAtTime(0, at);
    gain.gain.linearRampToValueAtTime(loudness, at + 0.02);
    gain.gain.setValueAtTime(loudness, at + seconds - 0.05);
    gain.gain.linearRampToValueAtTime(0, at + seconds);
    oscillator.connect(gain).connect(audio.destination);
    oscillator.start(at);
    oscillator.stop(at + seconds);
  }

  function sound() {
    showSound();
    if (!wanted || alerts === 0 || audio.state !== 'running') return;
    const pause = escalated > 0 ? 3_000 : 8_000;
    if (performance.now() - sounded < pause) return;
    sounded = performance.now();
    const loudness = escalated > 0 ? 0.5 : 0.25;
    // Three rising tones: high enough to be heard over fans, and no tone of a patient monitor's alarm (IEC 60601-1-8 has five).
    [660, 880, 1175].forEach((frequency, index) => tone(audio.currentTime + index * 0.22, frequency, 0.2, loudness));
  }

  function prepareSound() {
    if (!button || document.body.dataset.sound === undefined || !window.AudioContext) return;
    audio = new AudioContext();
    wanted = remembered();
    button.hidden = false;
    button.addEventListener('click', () => {
      if (wanted && audio.state !== 'running') audio.resume().then(showSound);
      else {
        wanted = !wanted;
        try { localStorage.setItem('sound', wanted ? 'on' : 'off'); } catch { /* for this page only */ }
        if (wanted) audio.resume();
      }
      showSound();
    });
    // Browsers let a page sound after its user has touched it.
    for (const kind of ['pointerdown', 'keydown']) document.addEventListener(kind, () => audio.resume(), { once: true });
    setInterval(sound, 500);
    showSound();
  }

  // --- Slices ------------------------------------------------------------------------------------------------------
  function prepareViewer() {
    const viewer = byId('viewer');
    if (!viewer) return;
    const { study, slices, revision } = viewer.dataset;
    const image = byId('slice');
    const position = byId('position');
    const kept = new Map(); // URL → promise of a blob's URL, the oldest first
    const KEPT_MAX = 80;
    let wheel = 0;
    let asking = 0; // Grows with every slice that is wanted: who scrolls fast sees the last one.

    const windowName = () => viewer.querySelector('input[name="window"]:checked').value;
    const outlines = () => Boolean(byId('outlines') && byId('outlines').checked);
    const url = (index) => `/study/${study}/slice/${index}?window=${windowName()}&outlines=${outlines()}&revision=${revision}`;

    function fetched(index) {
      const at = url(index);
      if (!kept.has(at)) {
        const made = fetch(at, { credentials: 'same-origin' }).then((r) => (r.ok ? r.blob() : Promise.reject(r.status)))
          .then((blob) => URL.createObjectURL(blob));
        made.catch(() => kept.delete(at));
        kept.set(at, made);
        if (kept.size > KEPT_MAX) {
          const [oldest, old] = kept.entries().next().value;
          kept.delete(oldest);
          old.then((blob) => URL.revokeObjectURL(blob), () => {});
        }
      }
      return kept.get(at);
    }

    async function show() {
      const index = Number(position.value);
      const turn = ++asking;
      byId('slice-number').textContent = index + 1;
      position.setAttribute('aria-valuetext', `${index + 1} / ${slices}`);
      // Others' slices are drawn, too: a few tries, as long as nobody wants another one.
      for (let tries = 0; tries < 20 && turn === asking; tries += 1) {
        try {
          const made = await fetched(index);
          if (turn !== asking) return;
          image.src = made;
          image.alt = byId('slice-number').textContent;
          for (const next of [index + 1, index - 1, index + 2]) {
            if (turn === asking && next >= 0 && next < slices) await fetched(next).catch(() => {});
          }
          return;
        } catch (status) {
          if (status !== 503) break;
          await new Promise((done) => setTimeout(done, 100));
        }
      }
      // No slice is better than another one's picture beside this number.
      if (turn === asking) image.removeAttribute('src');
    }

    function move(by) {
      position.value = Math.min(Number(slices) - 1, Math.max(0, Number(position.value) + by));
      show();
    }

    position.addEventListener('input', show);
    viewer.querySelectorAll('fieldset input').forEach((input) => input.addEventListener('change', show));
    image.addEventListener('wheel', (event) => {
      event.preventDefault();
      wheel += event.deltaMode === 0 ? event.deltaY / 40 : event.deltaY;
      const steps = Math.trunc(wheel);
      if (steps !== 0) { wheel -= steps; move(steps); }
    }, { passive: false });
    document.addEventListener('keydown', (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== 'range' && event.target.type !== 'radio') return;
      const own = event.target === position; // The slider moves by itself.
      const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 };
      if (!own && viewer.contains(event.target) === false && event.target !== document.body && event.target.id !== 'main') return;
      if (moves[event.key] && !own && event.target.type !== 'radio') { event.preventDefault(); move(moves[event.key]); }
      const preset = { l: 'lung', s: 'soft' }[event.key.toLowerCase()];
      if (preset) { viewer.querySelector(`input[value="${preset}"]`).checked = true; show(); }
    });
    show();
  }

  if (streams) {
    connect();
    ask();
    setInterval(watch, 500);
    setInterval(() => { if (document.hidden) ask(); }, 3_000);
    document.addEventListener('visibilitychange', () => { connect(); ask(); });
    prepareSound();
  }
  prepareViewer();
})();
