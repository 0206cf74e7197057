defmodule Leash.Platform do
  # The system that this VM runs on. Only Linux has what Leash is built on.
  @moduledoc false

  @doc """
  Returns the family and name of the system, as `:os.type/0` does.

  Tests of other systems set `:os_type` in the application's environment.
  """
  @spec os() :: {atom(), atom()}
  def os, do: Application.get_env(:leash, :os_type) || :os.type()

  @doc "Returns whether Leash runs here with all that it promises."
  @spec supported?() :: boolean()
  def supported?, do: os() == {:unix, :linux}

  @doc """
  Returns the answer of a native function that is not there.

  On Linux a missing function is a mistake of the build, and raises.
  """
  @spec without_native() :: term()
  def without_native do
    if supported?(), do: :erlang.nif_error(:nif_not_loaded), else: {:error, :unsupported_os}
  end

  @doc "Returns whether a file can be executed, without the native side."
  @spec executable(Path.t()) ::
          :ok | {:error, File.posix() | {:type, :device | :directory | :other}}
  def executable(path) do
    case File.stat(path) do
      {:ok, %{type: :regular, mode: mode}} ->
        if Bitwise.band(mode, 0o111) == 0, do: {:error, :eacces}, else: :ok

      {:ok, %{type: type}} when type in [:device, :directory] ->
        {:error, {:type, type}}

      {:ok, _other} ->
        {:error, {:type, :other}}

      {:error, reason} ->
        {:error, reason}
    end
  end
end
