defmodule Leash.Worker.Result do
  # What became of the tree, told to everybody who is to know: the table and telemetry, the client of a command, those who
  # called stop/2, the next of that name, and the supervisor by this process's exit reason.
  @moduledoc false

  alias Leash.{Callback, Exit, LastExits, Telemetry}
  alias Leash.Worker.{Client, State}

  # A function that takes longer is given up: its supervisor waits for this process.
  @exit_reason_ms 1_000

  @doc "Says once that nothing is left: for a client at the shim's word, for everybody else when the shim is gone too."
  @spec gone(State.t()) :: State.t()
  def gone(%{gone?: true} = state), do: state
  def gone(%{result: {:error, _survivors}} = state), do: state

  def gone(%{result: {:ok, exit}} = state) do
    if state.os_pid, do: Telemetry.worker_stop(state.number, exit)
    %{State.update_row(state, tree: :gone) | gone?: true}
  end

  @doc "Answers everybody who waits for the end."
  @spec answer(State.t()) :: :ok
  def answer(state), do: state |> answer_client() |> answer_stoppers()

  @doc """
  Answers the client of a command.

  The shim's word is the proof; that it exits as well is nothing to wait for. A start that failed has its answer in what
  `Leash.Worker.start_for/2` returns.
  """
  @spec answer_client(State.t()) :: State.t()
  def answer_client(%{client: %{answered?: false}, os_pid: pid} = state) when pid != nil do
    # The source of the input may be waiting for something that never comes.
    if state.input, do: Process.exit(state.input, :kill)

    state
    |> gone()
    |> Client.tell_end()
    |> put_in([:client, :answered?], true)
  end

  def answer_client(state), do: state

  @doc "Answers everybody who called stop/2, those too whose call is still in the mailbox."
  @spec answer_stoppers(State.t()) :: :ok
  def answer_stoppers(state) do
    Enum.each(state.stoppers, &GenServer.reply(&1, state.result))

    receive do
      {:"$gen_call", from, {:stop, _how}} -> answer_stoppers(%{state | stoppers: [from]})
      {:leash, {:stop, from, _how}} -> answer_stoppers(%{state | stoppers: [from]})
    after
      0 -> :ok
    end
  end

  @doc """
  Whether the whole VM stops, in order, and with it the application.

  The holder of this process is by then no part of an application, and ends in a moment. Told of
  this end, it would restart what cannot be started any more, or crash: a script that ends so
  makes the VM's exit status 1.
  """
  @spec vm_stops?(State.t()) :: boolean()
  def vm_stops?(%{failure: :shutdown, client: nil}),
    do: match?({:stopping, _progress}, :init.get_status())

  def vm_stops?(_state), do: false

  @doc "Answers, and goes on for those that ask later."
  @spec answered(State.t()) :: State.t()
  def answered(state) do
    :ok = answer(state)
    %{state | stoppers: []}
  end

  @doc "Whether somebody's call of stop/2 is still in the mailbox."
  @spec stop_waits?() :: boolean()
  def stop_waits? do
    {:messages, messages} = Process.info(self(), :messages)

    Enum.any?(messages, fn message ->
      match?({:"$gen_call", _from, {:stop, _how}}, message) or
        match?({:leash, {:stop, _from, _how}}, message)
    end)
  end

  @doc "Notes the end before this process is gone, after which its successor may be asked for it."
  @spec note(State.t(), term()) :: State.t()
  def note(state, reason) do
    LastExits.put(state.options.name, state.result, reason)
    state
  end

  @doc "What this process exits with."
  @spec reason(State.t()) :: term()
  def reason(state)

  # What happened is the client's to know, and was sent to it.
  def reason(%{client: client, phase: :done, os_pid: pid})
      when client != nil and pid != nil,
      do: :normal

  def reason(%{failure: failure}) when failure != nil, do: failure
  def reason(%{requested?: true}), do: :normal
  def reason(%{result: {:error, %{survivors: list}}}), do: {:survivors, list}

  def reason(%{result: {:ok, exit}, options: options} = state) do
    case options.exit_reason do
      nil -> Exit.reason(exit)
      function -> mapped(Callback.new(:exit_reason, state.label, function), exit)
    end
  end

  defp mapped(callback, exit) do
    case Callback.run_within(callback, [exit], @exit_reason_ms) do
      {:ok, reason} ->
        reason

      {:error, failure} ->
        _logged = Callback.log(callback, failure)
        Exit.reason(exit)
    end
  end
end
