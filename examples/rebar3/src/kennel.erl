%% A program of two processes that ends with the VM, however that ends.
%%
%%     rebar3 compile
%%     ERL_LIBS=_build/default/lib rebar3 shell
%%     rebar3 release && _build/default/rel/kennel/bin/kennel foreground
-module(kennel).

-behaviour(application).
-behaviour(supervisor).

-export([start/2, stop/1, init/1, program/0]).

start(_Type, _Arguments) -> supervisor:start_link({local, kennel_sup}, ?MODULE, []).

stop(_State) -> ok.

init([]) ->
    %% With a child in a session of its own, as programs have them that start servers.
    Program = leash:child_spec(#{
        name => {local, kennel_program},
        shell => "setsid sleep 1000 & echo READY; wait",
        ready => {regex, "^READY$", "m"}
    }),
    {ok, {#{strategy => one_for_one}, [Program]}}.

%% The pid of the program.
program() -> leash:os_pid(kennel_program).
