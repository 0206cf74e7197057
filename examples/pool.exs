# A pool written by hand. Its programs answer each line with a line. The application ends them all
# in time.
#
#     mix run --no-halt examples/pool.exs
#
# `kill -TERM` to the VM stops the application in order, `kill -KILL` does not. In both cases
# nothing is left. guides/pools.md shows the order of the calls.

defmodule MyApp.Pool do
  use GenServer

  # Each has a child in a session of its own, like programs that start servers or browsers.
  @program "setsid sleep 1000 & while read -r line; do echo \"did $line\"; done"

  def start_link(size), do: GenServer.start_link(__MODULE__, size, name: __MODULE__)

  @doc "Gets a line answered by a program that is free."
  def ask(line), do: GenServer.call(__MODULE__, {:ask, line}, :infinity)

  def workers, do: GenServer.call(__MODULE__, :workers)

  @impl true
  def init(size) do
    Process.flag(:trap_exit, true)
    {:ok, Enum.reduce(1..size, %{free: [], busy: %{}, queue: :queue.new()}, &add/2)}
  end

  # The group is closed while stop_all/2 runs. Then the pool starts no replacement, and does not
  # crash either.
  defp add(_slot, state) do
    case Leash.Worker.start_link(worker()) do
      {:ok, worker} -> free(worker, state)
      {:error, :stopping} -> state
    end
  end

  defp worker do
    [shell: @program, stdin: :pipe, on_output: self(), group: __MODULE__, stop: [sigterm: 1_000]]
  end

  defp free(worker, state) do
    case :queue.out(state.queue) do
      {{:value, {from, line}}, queue} -> give(worker, from, line, %{state | queue: queue})
      {:empty, _queue} -> %{state | free: [worker | state.free]}
    end
  end

  defp give(worker, from, line, state) do
    _ = Leash.Worker.write(worker, [line, ?\n])
    put_in(state.busy[worker], from)
  end

  @impl true
  def handle_call({:ask, line}, from, %{free: []} = state),
    do: {:noreply, %{state | queue: :queue.in({from, line}, state.queue)}}

  def handle_call({:ask, line}, from, %{free: [worker | free]} = state),
    do: {:noreply, give(worker, from, line, %{state | free: free})}

  def handle_call(:workers, _from, state),
    do: {:reply, state.free ++ Map.keys(state.busy), state}

  @impl true
  def handle_info({:leash_output, worker, :stdout, answer}, state) do
    case Map.pop(state.busy, worker) do
      {nil, _busy} ->
        {:noreply, state}

      {from, busy} ->
        GenServer.reply(from, String.trim_trailing(answer))
        {:noreply, free(worker, %{state | busy: busy})}
    end
  end

  def handle_info({:EXIT, worker, reason}, state) do
    {from, busy} = Map.pop(state.busy, worker)
    if from, do: GenServer.reply(from, {:error, reason})
    {:noreply, add(:again, %{state | free: List.delete(state.free, worker), busy: busy})}
  end

  def handle_info(_other, state), do: {:noreply, state}
end

defmodule MyApp do
  use Application

  @impl true
  def start(_type, _arguments),
    do: Supervisor.start_link([{MyApp.Pool, 4}], strategy: :one_for_one)

  # Called before the supervision tree ends, so that the pool still answers meanwhile.
  @impl true
  def prep_stop(state) do
    case Leash.stop_all(MyApp.Pool, deadline: 3_000) do
      {:ok, stopped} ->
        IO.puts("stopped #{length(stopped)}")

      {:error, stopped} ->
        for %{label: label, result: {:error, why}} <- stopped,
            do: IO.puts("left of #{label}: #{inspect(why)}")
    end

    state
  end
end

# The result that mix.exs makes of `def application`. Because :leash is among the applications, it
# starts first and stops last.
:ok =
  :application.load(
    {:application, :my_app,
     [
       description: ~c"a pool",
       vsn: ~c"1",
       modules: [MyApp, MyApp.Pool],
       registered: [MyApp.Pool],
       applications: [:kernel, :stdlib, :elixir, :logger, :leash],
       mod: {MyApp, []}
     ]}
  )

{:ok, _started} = Application.ensure_all_started(:my_app)

1..20
|> Task.async_stream(&MyApp.Pool.ask("job #{&1}"), max_concurrency: 20)
|> Enum.each(fn {:ok, "did job " <> _number} -> :ok end)

IO.puts("ready " <> Enum.map_join(MyApp.Pool.workers(), " ", &"#{Leash.Worker.os_pid(&1)}"))
