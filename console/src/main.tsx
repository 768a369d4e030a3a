import { render } from 'preact';

render(<h1>Lockstep</h1>, document.getElementById('console')!);
