defmodule Leash.Warden do
  # Keeps the run's warden alive: a process of the operating system that ends what is left when this VM and its
  # shims are killed at once (native/PROTOCOL.md, section 9).
  #
  # Its port is its leash. Letting go of it does not end the warden while anybody of the run lives, since a VM that
  # is dying lets go of everything, too; so whoever replaces one that still lives does no harm.
  @moduledoc false

  use GenServer
  use Leash.ShortStatus, [:os_pid, :error]

  require Logger

  alias Leash.{Run, Shim}

  # So long the start of the application waits for it. Most need 3 ms; it is no reason not to start.
  @ready_ms 2_000
  # Between two tries where wardens end at once: doubled from the first to the last.
  @again_ms {100, 30_000}
  # One that lived for so long was not ended by what hinders its start.
  @lived_ms 5_000

  @type status :: :ok | {:error, :not_running | :off | :starting | term()}

  @spec start_link(Run.t()) :: GenServer.on_start()
  def start_link(run), do: GenServer.start_link(__MODULE__, run, name: __MODULE__)

  @doc """
  Whether the run has a warden, for `Leash.capabilities/0`.

  Reasons: `:off` (configured so), `:starting`, `:not_running`, a POSIX name from the start of the program, or
  `{stage, errno}` of the program itself.
  """
  @spec status() :: status()
  def status, do: ask(:status, {:error, :not_running})

  @doc "The warden's number, nil where there is none."
  @spec os_pid() :: pos_integer() | nil
  def os_pid, do: ask(:os_pid, nil)

  defp ask(question, default) do
    GenServer.call(__MODULE__, question)
  catch
    :exit, _stopped -> default
  end

  @impl true
  def init(run) do
    state = %{run: run, port: nil, os_pid: nil, error: nil, began: nil, pause: elem(@again_ms, 0)}

    cond do
      not run.config.warden ->
        {:ok, %{state | error: :off}}

      # Nobody could tell when this VM has ended.
      run.shim_owner == nil ->
        {:ok, %{state | error: :no_proc}}

      true ->
        # Before the first worker can start.
        {:ok, state |> open() |> await_ready()}
    end
  end

  defp open(state) do
    began = System.monotonic_time(:millisecond)
    %{state | port: Shim.open_warden(state.run), os_pid: nil, error: :starting, began: began}
  rescue
    error in ErlangError -> failed(state, error.original)
    SystemLimitError -> failed(state, :system_limit)
  end

  defp await_ready(%{port: nil} = state), do: state

  defp await_ready(%{port: port} = state) do
    receive do
      {^port, {:data, frame}} -> report(Shim.report(frame), state)
      {^port, {:exit_status, _status}} -> ended(state)
    after
      @ready_ms -> state
    end
  end

  @impl true
  def handle_call(:os_pid, _from, state), do: {:reply, state.os_pid, state}

  def handle_call(:status, _from, state),
    do: {:reply, if(state.os_pid, do: :ok, else: {:error, state.error}), state}

  @impl true
  def handle_info({port, {:data, frame}}, %{port: port} = state),
    do: {:noreply, report(Shim.report(frame), state)}

  def handle_info({port, {:exit_status, _status}}, %{port: port} = state),
    do: {:noreply, ended(state)}

  def handle_info(:again, %{port: nil} = state), do: {:noreply, open(state)}
  def handle_info(_other, state), do: {:noreply, state}

  defp report({:ready, %{shim: os_pid}}, state), do: %{state | os_pid: os_pid, error: nil}

  defp report({:start_failed, stage, errno}, state), do: %{state | error: {stage, errno}}
  defp report(_other, state), do: state

  # What it said itself will be no other the next time.
  defp ended(%{os_pid: nil, error: {_stage, _errno} = reason} = state) do
    Logger.warning("Leash: #{without(reason)}")
    %{state | port: nil}
  end

  defp ended(%{os_pid: os_pid} = state) do
    lived = System.monotonic_time(:millisecond) - state.began

    if os_pid,
      do: Logger.warning("Leash: the run's warden, #{os_pid}, was killed; another one is started")

    state = %{state | port: nil, os_pid: nil, error: :killed}
    # At once, unless it goes on like that.
    if lived > @lived_ms, do: open(%{state | pause: elem(@again_ms, 0)}), else: again(state)
  end

  defp failed(state, reason) do
    if state.error != reason, do: Logger.warning("Leash: #{without(reason)}")
    again(%{state | port: nil, os_pid: nil, error: reason})
  end

  defp without(reason) do
    "no warden could be started (#{inspect(reason)}); should this VM and its shims be killed at once, " <>
      "what they leave is ended by the next start's sweep"
  end

  defp again(state) do
    _timer = Process.send_after(self(), :again, state.pause)
    %{state | pause: min(state.pause * 2, elem(@again_ms, 1))}
  end
end
