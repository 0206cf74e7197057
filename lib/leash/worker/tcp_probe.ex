defmodule Leash.Worker.TcpProbe do
  # Waiting until a worker listens on a port of this machine.
  @moduledoc false

  @connect_ms 500

  # There is nothing to be woken by when somebody else begins to listen; this is how often to ask.
  @interval_ms 20

  @doc "Whether somebody accepts connections on 127.0.0.1 now."
  @spec open?(:inet.port_number()) :: boolean()
  def open?(port) do
    case :gen_tcp.connect({127, 0, 0, 1}, port, [], @connect_ms) do
      {:ok, socket} ->
        :ok = :gen_tcp.close(socket)
        true

      {:error, _reason} ->
        false
    end
  end

  @doc "Asks until the port is open, then sends the caller `{:output_ready, pid}`."
  @spec start_link(:inet.port_number()) :: {:ok, pid()}
  def start_link(port) do
    worker = self()
    {:ok, spawn_link(fn -> ask(port, worker, Process.monitor(worker)) end)}
  end

  defp ask(port, worker, monitor) do
    if open?(port) do
      send(worker, {:output_ready, self()})
    else
      receive do
        {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
      after
        @interval_ms -> ask(port, worker, monitor)
      end
    end
  end
end
