// Starts the page: styles, theme, Back button, refresh clock, first render.
import { render } from 'preact';
import './styles/tokens.css';
import './styles/page.css';
import './styles/workbench.css';
import { loadTheme, restore } from './state/actions';
import { startClock } from './state/clock';
import { followState } from './state/document';
import { App } from './views/App';

loadTheme();
followState();
startClock();
window.addEventListener('popstate', restore);
const host = document.querySelector('#page');
if (host) render(<App />, host);
