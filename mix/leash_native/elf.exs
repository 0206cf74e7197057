defmodule Mix.Tasks.Compile.LeashNative.Elf do
  # Reads from a file that another machine built what it is for. Nothing is executed.
  @moduledoc false

  @typedoc "A machine that Leash runs on, as Rust's targets call it."
  @type machine :: String.t()

  # e_machine of elf(5).
  @machines %{62 => "x86_64", 183 => "aarch64"}

  @doc "Returns the machine that an ELF file is for, a sentence's end that says why not."
  @spec machine(binary()) :: {:ok, machine()} | {:error, String.t()}
  # 64 bits, little-endian: e_type at 16, e_machine at 18.
  def machine(<<0x7F, "ELF", 2, 1, _ident::binary-10, _type::16, number::little-16, _::binary>>) do
    case @machines do
      %{^number => machine} -> {:ok, machine}
      _other -> {:error, "is for a machine that Leash does not run on (e_machine #{number})"}
    end
  end

  def machine(_contents), do: {:error, "is no ELF file of 64 bits"}

  @doc """
  Returns the version and the protocol that native/tag/src/build_mark.rs wrote into the file of
  that name, or nil.
  """
  @spec build_mark(binary(), String.t()) :: {String.t(), String.t()} | nil
  def build_mark(contents, name) do
    # Not a regex over the whole file: it is megabytes of any bytes.
    prefix = name <> " "

    contents
    |> :binary.matches(prefix)
    |> Enum.find_value(fn {at, length} ->
      rest = binary_part(contents, at + length, min(80, byte_size(contents) - at - length))

      case Regex.run(~r/\A(\d+\.\d+\.\d+[-+.\w]*) \(protocol (\d+)\)/, rest) do
        [_all, version, protocol] -> {version, protocol}
        nil -> nil
      end
    end)
  end

  @doc "Returns the C library that a shared library is linked against."
  @spec libc(binary()) :: :gnu | :musl
  def libc(contents) do
    if :binary.match(contents, "\0libc.so.6\0") == :nomatch, do: :musl, else: :gnu
  end
end
