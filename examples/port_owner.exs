# A common process that owns a port, and the one line that puts its program on a leash.
#
#     mix run --no-halt examples/port_owner.exs
#
# After `kill -KILL` to the VM, the program and its child stay with the first of the two lines.
# With the second they do not.

defmodule MyApp.Calculator do
  use GenServer

  # Like many programs, it goes on after the end of its input, and has a child in a session of its
  # own.
  @args [
    "-c",
    "setsid sleep 1000 & echo pids $$ $!; while :; do read -r line && echo \"did $line\" || sleep 1; done"
  ]

  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  def ask(line), do: GenServer.call(__MODULE__, {:ask, line})
  def pids, do: GenServer.call(__MODULE__, :pids)

  @impl true
  def init(nil) do
    options = [:binary, :exit_status, line: 1_000]

    # port = Port.open({:spawn_executable, System.find_executable("sh")}, [{:args, @args} | options])
    port = Leash.open_port("sh", @args, options)

    receive do
      {^port, {:data, {:eol, "pids " <> pids}}} -> {:ok, %{port: port, pids: pids, asked: nil}}
    after
      5_000 -> {:stop, :no_answer}
    end
  end

  # The rest is the same for both lines.

  @impl true
  def handle_call({:ask, line}, from, %{asked: nil} = state) do
    Port.command(state.port, [line, ?\n])
    {:noreply, %{state | asked: from}}
  end

  def handle_call(:pids, _from, state), do: {:reply, state.pids, state}

  @impl true
  def handle_info({port, {:data, {:eol, answer}}}, %{port: port} = state) do
    GenServer.reply(state.asked, answer)
    {:noreply, %{state | asked: nil}}
  end

  def handle_info({port, {:exit_status, status}}, %{port: port} = state),
    do: {:stop, {:exit_status, status}, state}
end

defmodule MyApp do
  use Application

  @impl true
  def start(_type, _arguments),
    do: Supervisor.start_link([MyApp.Calculator], strategy: :one_for_one)
end

:ok =
  :application.load(
    {:application, :my_app,
     [
       description: ~c"the owner of a port",
       vsn: ~c"1",
       modules: [MyApp, MyApp.Calculator],
       registered: [MyApp.Calculator],
       applications: [:kernel, :stdlib, :elixir, :logger, :leash],
       mod: {MyApp, []}
     ]}
  )

{:ok, _started} = Application.ensure_all_started(:my_app)

"did a sum" = MyApp.Calculator.ask("a sum")
IO.puts("ready " <> MyApp.Calculator.pids())
