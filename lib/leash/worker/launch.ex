defmodule Leash.Worker.Launch do
  # From options to a shim that runs: a number, then what the warden has started.
  @moduledoc false

  alias Leash.{Attachment, HeldShim, Reaper, Run, Shim, Text, Warden, Workers}
  alias Leash.Worker.{Channel, Claims, Client, ReadyProbe, State}

  @doc "Starts the shim; with what it has said first. What is owned (number, descriptors) is the calling process's, and goes with it."
  @spec run(map(), Client.t() | nil) :: {:ok, State.t(), Warden.message()} | {:error, term()}
  def run(options, client) do
    label = label(options)

    with :ok <- endable(options),
         {:ok, options} <- Attachment.watch(options),
         {:ok, number} <-
           Reaper.register(%{
             kind: kind(options, client),
             label: label,
             name: options.name,
             stop: options.stop,
             group: options.group,
             mark?: options[:mark] != false,
             on_crash: options.on_crash,
             owner: owner(options, client),
             claims: Claims.of(options),
             outlives: if(options.on_exit == :detach, do: :own)
           }),
         # Not before: a predecessor may have listened there until now.
         :ok <- free(options.ready),
         {:ok, run} <- fetch_run(),
         :ok <- Run.note_mark(run, number, options),
         options = Run.with_flag(run, number, options),
         :ok <- Attachment.record(run, number, options),
         {:ok, started} <- start(run, number, options) do
      %{
        run: run,
        number: number,
        client: client,
        options: options,
        label: label,
        started: started
      }
      |> State.new()
      |> held(started.first)
    end
  end

  # Where this process is killed before the shim's own first report, the Reaper has to look after the tree.
  defp held(state, {:spawned, _frames, _pidfd} = first),
    do: {:ok, Channel.take(state, first), {:ok, ""}}

  defp held(state, first), do: {:ok, state, first}

  defp owner(%{attach: %{owner: owner}}, _client), do: if(is_pid(owner), do: owner)
  defp owner(_options, nil), do: State.parent()
  defp owner(_options, client), do: client.pid

  # What listens there may be a tree of ours that is ending, with a port that it has not named.
  defp free(ready) do
    with {:error, {:port_in_use, _port}} = refused <- ReadyProbe.free(ready) do
      case Reaper.await_ending() do
        :gone -> ReadyProbe.free(ready)
        :none -> refused
      end
    end
  end

  # What outlives its Worker is ended by a signal to its shim, or never.
  defp endable(%{on_exit: :detach}),
    do: if(HeldShim.possible?(), do: :ok, else: {:error, :no_pidfd})

  defp endable(_options), do: :ok

  defp kind(%{attach: _target}, _client), do: :attachment
  defp kind(_options, nil), do: :worker
  defp kind(_options, _client), do: :command

  defp label(%{name: nil, command: command}), do: command |> Path.basename() |> Text.printable()
  defp label(%{name: name}), do: inspect(name)

  defp fetch_run do
    with :error <- Run.fetch(), do: {:error, :not_running}
  end

  defp start(run, number, options) do
    began = System.monotonic_time(:millisecond)

    with {:error, reason} <- Shim.start(run, number, options) do
      # What may be started later finds its channel hung up, and starts nothing.
      Workers.change(number, tree: :gone)

      {:error,
       failure(reason, System.monotonic_time(:millisecond) - began, options.start_timeout)}
    end
  end

  defp failure(:not_running, _took, _most), do: :not_running
  # It was asked for less than a warden is waited for.
  defp failure(:no_warden, took, most) when took >= most, do: :start_timeout
  defp failure(:no_warden, _took, _most), do: :no_warden
  defp failure(reason, _took, _most), do: {:shim, reason}
end
