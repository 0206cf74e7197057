defmodule Leash.Worker.Launch do
  # From options to a shim that runs: a number, the name of the socket for the pipes, the port.
  @moduledoc false

  alias Leash.{Attachment, Native, Reaper, Run, Shim, Text, Workers}
  alias Leash.Worker.{Claims, Client, LetGo, ReadyProbe, State}

  @doc "Starts the shim. What is owned (number, descriptors, port) is the calling process's, and goes with it."
  @spec run(map(), Client.t() | nil) :: {:ok, State.t()} | {:error, term()}
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
         {:ok, listener, stdio_name} <- listen(options),
         {:ok, port} <- open_port(run, number, options, stdio_name) do
      {:ok,
       State.new(%{
         run: run,
         number: number,
         client: client,
         options: options,
         label: label,
         port: port,
         listener: listener
       })}
    end
  end

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

  defp endable(options),
    do: if(LetGo.possible?(options), do: :ok, else: {:error, :no_pidfd})

  defp kind(%{attach: _target}, _client), do: :attachment
  defp kind(_options, nil), do: :worker
  defp kind(_options, _client), do: :command

  defp label(%{name: nil, command: command}), do: command |> Path.basename() |> Text.printable()
  defp label(%{name: name}), do: inspect(name)

  defp fetch_run do
    with :error <- Run.fetch(), do: {:error, :not_running}
  end

  defp listen(options) do
    if options.stdin == :pipe or options.stdout == :output or options.stderr == :output,
      do: with({:error, reason} <- Native.listen(), do: {:error, {:stdio, reason}}),
      else: {:ok, nil, nil}
  end

  defp open_port(run, number, options, stdio_name) do
    port = Shim.open(run, number, options, stdio_name)

    # Where this process is killed before the first report, the Reaper has to look after it.
    with :detach <- options.on_exit,
         {:os_pid, pid} <- Port.info(port, :os_pid),
         do: Workers.change(number, shim: pid)

    {:ok, port}
  rescue
    error in ErlangError -> {:error, {:port, error.original}}
    # Port.open/2 has badarg for what validation could not foresee, such as a NUL from the VM's own
    # environment.
    error in ArgumentError -> {:error, {:port, Exception.message(error)}}
  end
end
